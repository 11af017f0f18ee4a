"""What a stored position is a position in: the family of its cursors, and which completions were asked for, by value."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Final, cast

import msgspec

from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.combining import AllOf, AnyOf, is_plain
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionBackend, CompletionFilter
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.filters import is_noop

__all__ = [
    "check_selection",
    "cursor_family",
    "former_selection_text",
    "own_family",
    "selection_text",
    "stored_checkpoint",
]

_FAMILIES: Final = {0x01: "stream", 0x02: "outbox"}


def cursor_family(cursor: StreamCursor) -> str:
    """Whose cursor it is; blank for the beginning and for "from now", which are every backend's."""
    return "" if cursor.is_empty or cursor.is_beginning else _family(cursor.family)


def own_family(backend: CompletionBackend) -> str:
    """Whose cursors the backend takes; blank where it does not say so (by ``cursor_prefix``)."""
    prefix: object = getattr(backend, "cursor_prefix", None)
    return _family(prefix) if isinstance(prefix, int) else ""


def _family(prefix: int) -> str:
    return _FAMILIES.get(prefix, f"0x{prefix:02x}")


def selection_text(wanted: CompletionFilter | None, partitions: Collection[int] | None, named: str | None) -> str:
    """Which completions are asked for, as text that is the same whenever they are. Raises ``Validation``."""
    parts: dict[str, object] = {}
    if wanted is not None and not is_noop(wanted):
        value = _value(wanted)
        if value is None:
            if not named:
                raise Validation(
                    "selection",
                    f"what a {name_of(wanted)} admits cannot be told from outside;"
                    " say it in words that change when it does",
                )
            value = {"filter": check_text("selection", "the text", named)}
        parts |= value
    if partitions is not None:
        parts["partitions"] = _partitions(partitions)
    return msgspec.json.encode(parts).decode() if parts else ""


def _value(wanted: CompletionFilter) -> dict[str, object] | None:
    """A filter that is ours as plain values; None for one that holds somebody else's code."""
    if type(wanted) is ScannerFilter:
        tenant: dict[str, object] = {} if wanted.namespace is None else {"namespace": wanted.namespace}
        return tenant if wanted.instance_tag is None else tenant | {"tag": wanted.instance_tag}
    if isinstance(wanted, AnyOf | AllOf) and is_plain(wanted):
        values = [_value(part) for part in wanted.parts]
        if None in values:
            return None
        # In whatever order they were given.
        return {"any" if isinstance(wanted, AnyOf) else "all": sorted(values, key=msgspec.json.encode)}
    return None


def _partitions(partitions: Collection[int]) -> object:
    """A row with one step as its ends, however it was given."""
    numbers = sorted(set(partitions))
    steps = {after - before for before, after in pairwise(numbers)}
    return {"from": numbers[0], "to": numbers[-1], "step": steps.pop()} if len(steps) == 1 else numbers


def former_selection_text(
    wanted: CompletionFilter | None, partitions: Collection[int] | None, named: str | None
) -> frozenset[str]:
    """How earlier versions wrote it."""
    parts: list[str] = []
    tail: list[str] = []
    if partitions is not None:
        tail.append(f"partitions={partitions if isinstance(partitions, range) else sorted(partitions)!r}")
    if isinstance(wanted, ScannerFilter):
        parts += [f"namespace={wanted.namespace!r}"] * (wanted.namespace is not None)
        parts += [f"tag={wanted.instance_tag!r}"] * (wanted.instance_tag is not None)
    elif wanted is not None and not is_noop(wanted):
        # The class's name was all that there was once; of one that has another name by now, the caller may say it.
        return frozenset(" ".join([text, *tail]) for text in (f"filter={named!r}", f"{named}", _class_of(wanted)))
    return frozenset({" ".join([*parts, *tail])})


def _class_of(wanted: CompletionFilter) -> str:
    return f"{type(wanted).__module__}.{type(wanted).__qualname__}"


def stored_checkpoint(stored: object) -> Checkpoint | None:
    """What a store answered. Raises ``Validation`` where that is no checkpoint, or one of other things than it holds."""
    if stored is None:
        return None
    if not isinstance(stored, Checkpoint):
        raise Validation("checkpoint", f"the store answered a {name_of(stored)}, which is no Checkpoint")
    cursor = cast("object", stored.cursor)
    if not isinstance(cursor, StreamCursor):
        raise Validation("checkpoint", f"the store answered a {name_of(cursor)}, which is no cursor")
    try:
        # As a store would have to hold it, and read it back.
        position = StreamCursor.from_bytes(cursor.to_bytes())
    except Exception as exc:
        raise Validation("checkpoint", "the store answered a position that is none") from exc
    return Checkpoint(
        cursor=position,
        backend=check_text("checkpoint", "the backend", stored.backend),
        selection=check_text("checkpoint", "the selection", stored.selection),
    )


def check_selection(name: str, stored: Checkpoint, selection: str, former: Collection[str]) -> None:
    """Raise ``Validation`` if it was stored for other completions; ``former``: how earlier versions wrote these."""
    if stored.selection != selection and stored.selection not in former:
        raise Validation(
            "checkpoint",
            f"{name!r} was stored for {stored.selection or 'everything'}, and this is for"
            f" {selection or 'everything'}; what that did not admit has been passed over",
        )
