"""Positions in a backend's log of completions, as opaque bytes.

Layouts (fixed by the engine; stored cursors of the Rust reader stay valid):

- empty: from now (the tail);
- ``0x01`` ‖ ms u64 BE ‖ seq u64 BE, 17 bytes: a position in a stream ordered by time;
- ``0x02`` ‖ event_id i64 BE, 9 bytes: a row of the Postgres outbox.

And ours, for backends of other people's, which the engine never reads:

- ``0x80`` to ``0xff`` ‖ position u128 BE, 17 bytes: a ``CursorFamily``.

Position zero of any layout lies before everything, so every backend takes it as the beginning.
"""

from __future__ import annotations

import struct
from typing import Final, Self, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.errors import Validation

__all__ = ["CursorFamily", "StreamCursor"]

_STREAM: Final = 0x01
_OUTBOX: Final = 0x02
_STREAM_LAYOUT: Final = struct.Struct(">BQQ")
_OUTBOX_LAYOUT: Final = struct.Struct(">Bq")
# Half of all prefixes, far from those that the engine counts up from below.
_FAMILIES: Final = range(0x80, 0x100)
_FAMILY_LENGTH: Final = 17


@final
class StreamCursor(msgspec.Struct, frozen=True, gc=False):
    """Where a stream stands: everything up to here has been yielded. Opaque, immutable, comparable for equality.

    Store ``to_bytes()`` (or ``str(cursor)`` in a text file) and come back with ``from_bytes()`` / ``from_text()``.
    Resuming at a stored cursor may repeat completions, and loses none: a payload's own cursor is right once that payload
    has been processed, a stream's once everything has that it has yielded.
    """

    family: int = 0
    """The layout's first byte; 0 for the empty cursor. For backends only."""
    position: int = 0
    """The position within the family; for ``0x01``, ``ms << 64 | seq``. For backends only."""

    @classmethod
    def empty(cls) -> Self:
        """From now: only what completes after the subscribe call has returned."""
        return cls()

    @classmethod
    def beginning(cls) -> Self:
        """From the oldest completion that the backend still has."""
        return cls(_OUTBOX, 0)

    @classmethod
    def outbox(cls, event_id: int) -> Self:
        """A row of the Postgres outbox. ``event_id``: 0 to 2**63 - 1, else it raises ``Validation``."""
        if not 0 <= event_id < 1 << 63:
            raise Validation("cursor", f"event id {event_id} is outside 0 … 2**63 - 1")
        return cls(_OUTBOX, event_id)

    @classmethod
    def stream(cls, ms: int, seq: int) -> Self:
        """A position ``ms``-``seq`` in a stream ordered by time. Both unsigned, 64 bits, else it raises ``Validation``."""
        if not (0 <= ms < 1 << 64 and 0 <= seq < 1 << 64):
            raise Validation("cursor", "both parts of a stream position are unsigned 64-bit integers")
        return cls(_STREAM, ms << 64 | seq)

    @property
    def is_empty(self) -> bool:
        """Whether this is the tail."""
        return self.family == 0

    @property
    def is_beginning(self) -> bool:
        """Whether this is position zero of its layout, which every backend takes as the beginning."""
        return self.family != 0 and self.position == 0

    @property
    def event_id(self) -> int | None:
        """The outbox row, or None if the cursor is of another layout."""
        return self.position if self.family == _OUTBOX else None

    @property
    def stream_position(self) -> tuple[int, int] | None:
        """``(ms, seq)``, or None if the cursor is of another layout."""
        return divmod(self.position, 1 << 64) if self.family == _STREAM else None

    def to_bytes(self) -> bytes:
        """The stored form: 0, 9 or 17 bytes."""
        if self.family in _FAMILIES:
            return bytes([self.family]) + self.position.to_bytes(_FAMILY_LENGTH - 1, "big")
        if self.family == _OUTBOX:
            return _OUTBOX_LAYOUT.pack(_OUTBOX, self.position)
        if self.family == _STREAM:
            return _STREAM_LAYOUT.pack(_STREAM, *divmod(self.position, 1 << 64))
        return b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of ``to_bytes``. Raises ``Validation`` for another prefix, length or a negative row."""
        if not data:
            return cls()
        if len(data) == _OUTBOX_LAYOUT.size and data[0] == _OUTBOX:
            return cls.outbox(int.from_bytes(data[1:], "big", signed=True))
        if len(data) == _STREAM_LAYOUT.size and data[0] == _STREAM:
            return cls(_STREAM, int.from_bytes(data[1:], "big"))
        if len(data) == _FAMILY_LENGTH and data[0] in _FAMILIES:
            return cls(data[0], int.from_bytes(data[1:], "big"))
        raise Validation("cursor", f"{len(data)} bytes beginning 0x{data[0]:02x} are no cursor of any known backend")

    def to_text(self) -> str:
        """The bytes in lower-case hex; ``-`` for the empty cursor, so that a text file is never blank."""
        return self.to_bytes().hex() or "-"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of ``to_text``; surrounding white space is ignored. Raises ``Validation``."""
        text = text.strip()
        try:
            data = b"" if text == "-" else bytes.fromhex(text)
        except ValueError:
            raise Validation("cursor", f"{text[:40]!r} is not hexadecimal") from None
        if not data and text != "-":
            raise Validation("cursor", "blank text is no cursor; the tail is written '-'")
        return cls.from_bytes(data)

    @override
    def __str__(self) -> str:
        return self.to_text()


@final
class CursorFamily(msgspec.Struct, frozen=True):
    """The cursors of a backend of your own: a prefix that marks them, so that no other backend takes them for its own.

    ::

        CURSORS = ffc.CursorFamily(0xA7)
        cursor = CURSORS.at(row_number)
        row_number = CURSORS.position(cursor)  # Validation for a cursor of another backend

    ``prefix``: 0x80 to 0xff; take one at random. The wire's own are below. Raises ``Validation`` for another.
    """

    prefix: int

    def __post_init__(self) -> None:
        if type(self.prefix) is not int or self.prefix not in _FAMILIES:
            raise Validation(
                "cursor", f"a family's prefix is 0x80 to 0xff, not {self.prefix!r}; the rest is the wire's"
            )

    def at(self, position: int, /) -> StreamCursor:
        """The cursor behind which everything up to ``position`` lies: 1 to 2**128 - 1, rising; 0 is the beginning.

        Raises ``Validation`` for another.
        """
        if type(position) is not int or not 0 <= position < 1 << 128:
            raise Validation("cursor", f"position {position!r:.40} is outside 0 … 2**128 - 1, or no whole number")
        return StreamCursor(self.prefix, position)

    def position(self, cursor: StreamCursor, /) -> int | None:
        """The inverse: 0 for the beginning, None for the empty cursor, which is from now.

        Raises ``Validation`` for a cursor of another backend.
        """
        if cursor.is_empty:
            return None
        if cursor.is_beginning:
            return 0
        if cursor.family != self.prefix:
            raise Validation(
                "cursor", f"it belongs to another backend; cursors of this one begin with 0x{self.prefix:02x}"
            )
        return cursor.position
