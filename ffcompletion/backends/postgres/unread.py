"""Which ends without a row are still to be read: of each partition since a time, and a page of it after the other. Pure.

However many there are, a page is bounded, and the next one goes on behind it. A partition that holds more than a page
goes to the end of the line, so that one that somebody fills keeps nobody else waiting for longer than a page of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, final

import msgspec

__all__ = ["Last", "Mark", "Pages", "Unread"]

_MOST_ROWS: Final = 2_000
_LEAST_ROWS: Final = 32

Last = tuple[int, int, str]
"""Of the last end of a page: when it ended, in ms; its partition key, and its bare id."""


@final
class Mark(msgspec.Struct, frozen=True):
    """Where to go on in one partition."""

    key: int | None
    """None: in the one table that is not partitioned."""
    since_ms: int
    partition: int = 0
    after: str | None = None
    """Behind this execution, of that partition, which ended at that time; None: from that time on."""


@final
class Unread:
    """Partitions that are to be read, in turn."""

    __slots__ = ("_again", "_marks")

    def __init__(self) -> None:
        self._marks: dict[int | None, Mark] = {}
        # Once more, from a time on, when they have been read.
        self._again: dict[int | None, int] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, key: int | None) -> bool:
        return key in self._marks

    def add(self, key: int | None, since_ms: int) -> None:
        """Read this partition from a time on; what has been read of it already, once it is done."""
        mark = self._marks.get(key)
        if mark is None:
            self._marks[key] = Mark(key, since_ms)
        elif mark.after is not None or since_ms < mark.since_ms:
            self._again[key] = min(since_ms, self._again.get(key, since_ms))

    def piece(self, most: int) -> Sequence[Mark]:
        """The next ones, so many at the most, to be read in this order."""
        return [mark for _, mark in zip(range(most), self._marks.values(), strict=False)]

    def read(self, piece: Iterable[Mark], last: Last | None) -> list[int | None]:
        """They have been read: whole (None), or up to this end. Returns the partitions that are done."""
        done: list[int | None] = []
        for mark in piece:
            if last is not None and mark.key in (None, last[1]):
                del self._marks[mark.key]
                # At the end of the line.
                self._marks[mark.key] = Mark(mark.key, last[0], last[1], last[2])
                break
            del self._marks[mark.key]
            if (since_ms := self._again.pop(mark.key, None)) is not None:
                self._marks[mark.key] = Mark(mark.key, since_ms)
            else:
                done.append(mark.key)
        return done


@final
class Pages:
    """How many rows to ask for at once: fewer where they are heavy or a question fails, more again when they are not."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: int = _MOST_ROWS

    def came(self, kept: int, *, cut: bool) -> None:
        """So many came; ``cut``: because they were too many bytes."""
        self.rows = max(_LEAST_ROWS, 2 * kept) if cut else min(_MOST_ROWS, 2 * self.rows)

    def failed(self) -> None:
        """No answer came in time."""
        self.rows = max(_LEAST_ROWS, self.rows // 4)
