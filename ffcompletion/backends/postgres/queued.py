"""What waits for its records, in order: rows as they were read, and beyond so many of them their ids alone. Pure.

Whoever ends hundreds of thousands of executions at once makes all of them wait here. Were the streams sent to read them one
by one, each would look up the same records; so what is not held is read again, once for all, when its turn comes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, final

import msgspec

from ffcompletion.backends.postgres.rows import Decoded

__all__ = ["Item", "Queued"]

# Rows held: some 25 MB.
_HELD: Final = 50_000
# Rows looked up in one question, unless one read brought more.
_TOGETHER: Final = 2_000
_NONE: Final = Decoded((), (), 0)


@final
class Item(msgspec.Struct, frozen=True):
    """What the reader did: rows that it has read, or gaps that it has given up."""

    ids: Sequence[int] = ()
    """The ids that were new, ascending."""
    decoded: Decoded | None = _NONE
    """The completions among them; None: to be read again."""
    watermark: int = 0
    """No payload's cursor goes beyond it."""
    gaps: Sequence[tuple[int, int]] = ()
    beneath: bool = False
    """They lie far below, where nobody looked."""


@final
class Queued:
    """First in, first out."""

    __slots__ = ("_held", "_items", "waiting")

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._held = 0
        self.waiting: int = 0
        """Rows that wait, held or not."""

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @property
    def head(self) -> Item:
        """What is next. There is something."""
        return self._items[0]

    def add(self, ids: Sequence[int], decoded: Decoded, watermark: int, *, beneath: bool = False) -> None:
        """Rows were read; they are held while there is room."""
        self.waiting += len(ids)
        if self._held + len(ids) > _HELD and self._items:
            self._items.append(Item(_compact(ids), None, watermark, beneath=beneath))
            return
        self._held += len(ids)
        self._items.append(Item(ids, decoded, watermark, beneath=beneath))

    def add_gaps(self, gaps: Sequence[tuple[int, int]]) -> None:
        """Gaps were given up."""
        self._items.append(Item(gaps=gaps))

    def read_again(self, decoded: Decoded) -> None:
        """The completions among the rows at the head, as they are stored now."""
        head = self._items[0]
        self._held += len(head.ids)
        self._items[0] = msgspec.structs.replace(head, ids=list(head.ids), decoded=decoded)

    def together(self) -> list[tuple[Item, Decoded]]:
        """What is looked up together: from the head, without passing a retirement, or what has to be read again."""
        taken: list[tuple[Item, Decoded]] = []
        count = 0
        for item in self._items:
            if item.gaps or item.decoded is None or (taken and count + len(item.ids) > _TOGETHER):
                break
            taken.append((item, item.decoded))
            count += len(item.ids)
        return taken

    def pop_gaps(self) -> Sequence[tuple[int, int]]:
        """Those at the head, which are over."""
        return self._items.popleft().gaps

    def pop_rows(self, decoded: Decoded, count: int) -> tuple[Sequence[int], Decoded, Decoded]:
        """The first so many completions of those at the head: the ids up to there, these completions, and the others."""
        item = self._items[0]
        if count == len(decoded.rows):
            self._items.popleft()
            self._count(len(item.ids))
            return item.ids, decoded, _NONE
        # Two rows may bear one id: it is over when both are.
        upto = bisect_left(item.ids, decoded.rows[count][0])
        self._count(upto)
        done = Decoded(decoded.rows[:count], decoded.payloads[:count], 0)
        rest = Decoded(decoded.rows[count:], decoded.payloads[count:], 0)
        self._items[0] = msgspec.structs.replace(item, ids=item.ids[upto:], decoded=rest)
        return item.ids[:upto], done, rest

    def rewind(self, high: int) -> None:
        """Forget what has an id beyond this."""
        kept = list(self._items)
        self.clear()
        for item in kept:
            ids = item.ids[: bisect_right(item.ids, high)]
            gaps = [gap for gap in item.gaps if gap[1] <= high]
            decoded = item.decoded
            if ids:
                self.waiting += len(ids)
                if decoded is not None:
                    self._held += len(ids)
                    rows = [row for row in decoded.rows if row[0] <= high]
                    decoded = Decoded(rows, decoded.payloads[: len(rows)], 0)
                self._items.append(msgspec.structs.replace(item, ids=ids, decoded=decoded))
            elif gaps:
                self._items.append(Item(gaps=gaps))

    def clear(self) -> None:
        """Nothing waits."""
        self._items.clear()
        self._held = self.waiting = 0

    def _count(self, done: int) -> None:
        self.waiting -= done
        self._held -= done


def _compact(ids: Sequence[int]) -> Sequence[int]:
    """Ids in eight bytes each, or in next to none where no other lies between."""
    whole = range(ids[0], ids[0] + len(ids))
    return whole if list(whole) == ids else array("q", ids)
