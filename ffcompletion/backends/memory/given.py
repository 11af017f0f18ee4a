"""What a program says of a completion, made plain: it is handed to all others. Raises ``Validation`` for what no server holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.calling import name_of

__all__ = ["ms_of", "namespace_of", "outcome_of", "result_of", "tags_of"]

_MOST_MS: Final = 1 << 63


def namespace_of(given: object) -> str | None:
    """A number would match no filter, and nobody would know; nor is a subclass asked whether it is equal."""
    return None if given is None else check_text("namespace", "it", given)


def tags_of(given: object) -> dict[str, str] | None:
    """Plain text to plain text; None for none."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise Validation("tags", f"a mapping is needed, not {name_of(given)}")
    pairs = cast("Mapping[object, object]", given).items()
    return {check_text("tags", "a tag's key", key): check_text("tags", "a tag's value", value) for key, value in pairs}


def outcome_of(given: object) -> str:
    """Plain text."""
    return check_text("outcome", "it", given)


def ms_of(given: object) -> int:
    """A whole number of 64 bits."""
    if not isinstance(given, int) or isinstance(given, bool):
        raise Validation("produced_at_ms", f"a whole number is needed, not {name_of(given)}")
    ms = int.__pos__(given)
    if not -_MOST_MS <= ms < _MOST_MS:
        raise Validation("produced_at_ms", "it is beyond 64 bits")
    return ms


def result_of(given: object) -> bytes | None:
    """Bytes that nobody changes any more; None for none."""
    if given is None or type(given) is bytes:
        return given
    if not isinstance(given, bytes | bytearray | memoryview):
        raise Validation("payload_bytes", f"bytes are needed, not {name_of(given)}")
    return memoryview(cast("bytes", given)).tobytes()
