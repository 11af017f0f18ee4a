"""Which completions a consumer asks for, as the text that is stored beside its position."""

from __future__ import annotations

from collections.abc import Collection

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.filters import is_noop

__all__ = ["selection_text"]


def selection_text(wanted: CompletionFilter | None, partitions: Collection[int] | None, named: str | None) -> str:
    """Which completions are asked for, as text that is the same whenever they are. Raises ``Validation``."""
    parts: list[str] = []
    if isinstance(wanted, ScannerFilter):
        parts += [f"namespace={wanted.namespace!r}"] * (wanted.namespace is not None)
        parts += [f"tag={wanted.instance_tag!r}"] * (wanted.instance_tag is not None)
    elif wanted is not None and not is_noop(wanted):
        if not named:
            raise Validation(
                "selection",
                f"what a {name_of(wanted)} admits cannot be told from outside; say it in words that change when it does",
            )
        parts.append(f"filter={check_text('selection', 'the text', named)!r}")
    if partitions is not None:
        shown = partitions if isinstance(partitions, range) else sorted(partitions)
        parts.append(f"partitions={shown!r}")
    return " ".join(parts)
