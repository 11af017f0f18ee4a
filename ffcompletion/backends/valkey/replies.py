"""What the server's replies mean. Total: whatever a record holds, nothing is raised but the server's own refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, cast, final

from glide import GlideError

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.errors import code_of
from ffcompletion.contract.ids import FlowId, is_flow_id, trusted_flow_id

__all__ = [
    "PARTITION_COUNT",
    "Clocks",
    "Execute",
    "TooSlowError",
    "flow_of",
    "is_wrong_type",
    "milliseconds",
    "partition_count",
    "raise_refusal",
    "server_ms",
    "text_of",
    "texts",
    "texts_by_name",
]

Execute = Callable[[Sequence[Sequence[str]]], Awaitable[Sequence[object]]]
"""Runs commands in one pipeline; raises if the server cannot be asked, and an error of one command is its reply."""


Clocks = Callable[[], Awaitable[int | None]]
"""By how many ms the clocks of the servers differ, at the most; None where that cannot be told now."""


@final
class TooSlowError(TimeoutError):
    """The server answers, but not this one command: what it asks for is more than comes in that time."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(f"{command[0]} took too long")
        self.command = command


PARTITION_COUNT: Final = ("HGET", keys.PARTITIONS, "num_flow_partitions")
"""The command whose reply ``partition_count`` reads."""
_PARTITIONS: Final = 256
# The Rust side reads the field as a u16.
_MOST_PARTITIONS: Final = 65_535
# A time in ms has 13 digits; a signed 64-bit integer 19.
_MOST_DIGITS: Final = 18


def raise_refusal(replies: Sequence[object]) -> None:
    """Raise the first error among the replies (loading, no permission, …): nothing is known then, so ask again.

    A key of another type is an answer: there is no such record.
    """
    for reply in replies:
        if isinstance(reply, GlideError) and not is_wrong_type(reply):
            raise reply


def is_wrong_type(reply: object) -> bool:
    """Whether the key holds something else than it should."""
    return isinstance(reply, GlideError) and code_of(reply) == "WRONGTYPE"


def text_of(reply: object) -> str | None:
    """The reply's text. Nil, an error such as WRONGTYPE, or no UTF-8 (which no filter can spell) is None."""
    if not isinstance(reply, bytes):
        return None
    try:
        return reply.decode()
    except UnicodeDecodeError:
        return None


def texts(reply: object, count: int) -> list[str | None] | None:
    """The texts of a list of so many; None if the reply is none."""
    if not isinstance(reply, list):
        return None
    found = [text_of(item) for item in cast("list[object]", reply)]
    return found if len(found) == count else None


def texts_by_name(reply: object) -> Mapping[str, str]:
    """A hash's texts; empty if the reply is none. What is no text is left out."""
    if not isinstance(reply, dict):
        return {}
    items = cast("dict[object, object]", reply).items()
    found = ((text_of(key), text_of(value)) for key, value in items)
    return {key: value for key, value in found if key is not None and value is not None}


def milliseconds(text: str | None) -> int:
    """A time as the engine writes it; 0 for anything else, however long."""
    return int(text) if text and len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() else 0


def server_ms(reply: object) -> int:
    """The reply to TIME, in ms."""
    seconds, microseconds = cast("list[bytes]", reply)
    return int(seconds) * 1000 + int(microseconds) // 1000


def partition_count(reply: object) -> int:
    """How many partitions the engine runs: 256 where it does not say, or says nothing sensible."""
    count = milliseconds(text_of(reply))
    return count if 0 < count <= _MOST_PARTITIONS else _PARTITIONS


def flow_of(text: str | None) -> FlowId | None:
    """The flow that a core record names; None for a solo execution."""
    return trusted_flow_id(text) if text and is_flow_id(text) else None
