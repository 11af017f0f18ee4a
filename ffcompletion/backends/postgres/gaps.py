"""Which outbox ids have been handed out, which may still appear, and how far a cursor may go. Pure: no I/O, no clock.

An id is taken at INSERT and seen at COMMIT, so a lower id can appear after a higher one. The tracker admits whatever
is visible at once, and remembers the ids in between as *gaps*. A gap is over when its row appears, or when no
transaction is left that could own it:

1. The gap is seen: a read showed a higher id, and not this one.
2. *After* that read, the transactions that hold a write lock on the table are asked for. The owner took its lock
   before it took its id, and gives it up only after its commit is visible or its abort is final. So the owner is
   among them, or it has ended.
3. Once all of them have ended, one more read decides: the row is there, or it never will be.

New transactions do not matter, so a gap cannot be held for ever by traffic. One that does not end holds it, but not the
rows of others: where some of the owners have ended, the gap is read as well, and stays open. Two-phase commit keeps the lock under
another name (``-1/xid``): a prepared owner that turns up while a candidate disappears is taken for its continuation.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final, final

from ffcompletion.backends.postgres.deep import Deep
from ffcompletion.backends.postgres.gap import TOGETHER, Gap, joined, packed
from ffcompletion.backends.postgres.spans import Spans, covers, union, without

__all__ = ["LOOK_BACK", "GapTracker"]

LOOK_BACK: Final = 100_000
"""Rows below the start that are examined for transactions already under way."""

# Spans of retired ids that are remembered, the highest: a row that appears in one after all is new. Some 100 bytes each.
_RETIRED_KEPT: Final = 10_000
# Spans that are decided at once.
_DECIDED: Final = 4_096


@final
class GapTracker:
    """What one reader of the outbox has seen. ``start``: everything visible up to there counts as already seen."""

    __slots__ = ("_bottom", "_deep", "_gaps", "_high", "_opened", "_retired", "_start", "below")

    def __init__(self, start: int) -> None:
        self._start = start
        self._high = start
        self._gaps: list[Gap] = []
        self._opened = 0
        self._retired: list[tuple[int, int]] = []
        self._deep = Deep()
        self._bottom = 0  # the floor, where no row was visible down there
        # Ids far below that were handed out though nobody had found them missing, in that order.
        self.below: array[int] = array("q")

    @property
    def start(self) -> int:
        """Where the reader began."""
        return self._start

    @property
    def high(self) -> int:
        """The highest id seen."""
        return self._high

    @property
    def floor(self) -> int:
        """Ids up to here are no gaps, though transactions that were under way may own some: nobody looked at them."""
        return self._deep.floor

    @property
    def owned(self) -> int:
        """Of these, those up to here; 0 once whoever was under way has ended."""
        return self._deep.owned

    @property
    def watermark(self) -> int:
        """The last id below which nothing is outstanding: the furthest that a cursor may go."""
        return self._gaps[0].lows[0] - 1 if self._gaps else self._high

    @property
    def now(self) -> int:
        """Where a stream stands that wants what comes from now on. Never so far down that what is trimmed meanwhile would
        not be noticed when it resumes.
        """
        return max(self.watermark, self._bottom or self.floor)

    def settled_after(self, event_id: int) -> int:
        """The last id above this one up to which there is no gap; this one itself, if there is none."""
        at = bisect_right(self._gaps, event_id, key=lambda gap: gap.highs[-1])
        if at == len(self._gaps):
            return max(event_id, self._high)
        gap = self._gaps[at]
        return max(event_id, gap.lows[bisect_right(gap.highs, event_id)] - 1)

    @property
    def gaps(self) -> Sequence[Gap]:
        """Open gaps, lowest first."""
        return self._gaps

    @property
    def opened(self) -> int:
        """How many spans have been found missing so far."""
        return self._opened

    @property
    def held(self) -> int:
        """How many ids are held; of those beneath the lowest row, as many as are examined where there are rows."""
        held = sum(sum(gap.highs) - sum(gap.lows) + len(gap.lows) for gap in self._gaps)
        return held - self._bottom if self._bottom and self._gaps and self._gaps[0].lows[0] == 1 else held

    def spans(self) -> list[tuple[int, int]]:
        """Open gaps as ``(low, high)``, a copy."""
        return [span for gap in self._gaps for span in gap.spans]

    def assume(
        self,
        missing: Sequence[tuple[int, int]],
        now: float,
        floor: int = 0,
        owners: Collection[str] | None = None,
        *,
        lowest: bool = False,
    ) -> None:
        """Hold these spans (ascending, above ``floor``, up to ``start``) as gaps: they may be of ``owners``, who were under
        way when the reader began. At or below ``floor`` nobody looked. ``lowest``: no row was visible there, and the first
        span begins above it; it is held from the first id on, since a position in there would be taken for one whose
        successors were trimmed.
        """
        if lowest:
            self._bottom, floor = floor, 0
            missing = [(1, missing[0][1]), *missing[1:]]
        self._gaps = packed(missing, now) + self._gaps
        self._deep = Deep(floor, owners)

    def miss(self, spans: Spans, now: float) -> Spans:
        """Whoever read what is stored at or below the floor found these ids (ascending) missing: gaps, from now on, which are
        returned, but for those that have been handed out since.
        """
        new = self._deep.still_missing(spans)
        if not new:
            return new
        first = bisect_left(self._gaps, new[0][0], key=lambda gap: gap.highs[-1])
        last = bisect_right(self._gaps, new[-1][1], key=lambda gap: gap.lows[0])
        among = self._gaps[first:last]
        made = packed(union([span for gap in among for span in gap.spans], new), min([now, *(g.since for g in among)]))
        for gap in made:
            gap.awaits = any(each.awaits for each in among)
        self._gaps[first:last] = made
        return new

    def copy(self) -> GapTracker:
        """One that stands at the same place, and goes on by itself."""
        other = GapTracker(self._start)
        other._high = self._high  # of the same class
        other._deep, other._bottom, other.below = self._deep.copy(), self._bottom, self.below[:]
        other._gaps = [Gap(gap.lows[:], gap.highs[:], gap.since, gap.owners) for gap in self._gaps]
        other._retired = list(self._retired)
        return other

    def admit(self, ids: Sequence[int], now: float) -> list[int]:
        """Rows with these ids (ascending; twice, if two rows bear one) are visible. Returns the indexes of those not seen before, in order."""
        first = self._high + 1
        # The whole of ordinary traffic: new, dense, nothing held.
        if not self._gaps and ids and ids[0] == first and ids == list(range(first, first + len(ids))):
            self._high = ids[-1]
            return list(range(len(ids)))
        fresh: list[int] = []
        for index, event_id in enumerate(ids):
            if event_id > self._high:
                if event_id > self._high + 1:
                    self._open(self._high + 1, event_id - 1, now)
                self._high = event_id
                fresh.append(index)
            elif not self.seen(event_id):
                self._fill(event_id)
                fresh.append(index)
            elif fresh and fresh[-1] == index - 1 and ids[index - 1] == event_id:
                # Somebody wrote an id by hand that the sequence gave to another row: neither hides the other.
                fresh.append(index)
        return fresh

    def hold(self, event_id: int, now: float) -> None:
        """A row with this id is visible, and another one may be to come: a gap, until its owners have ended."""
        if event_id <= self._high:
            return
        low, since, last = self._high + 1, now, self._gaps[-1] if self._gaps else None
        if last is not None and last.highs[-1] == self._high:
            # Who may own the longer one is to be asked.
            low, since = last.lows.pop(), last.since
            last.highs.pop()
            if not last.lows:
                self._gaps.pop()
        self._open(low, event_id, since)
        self._gaps[-1].awaits = True
        self._high = event_id

    def seen(self, event_id: int) -> bool:
        """Whether a row with this id has been admitted, or was visible before ``start``."""
        if event_id > self._high or self._find(event_id) is not None or self._retired_at(event_id) is not None:
            return False
        return not self._deep.expects(event_id)

    def beneath(self, ids: Iterable[int]) -> set[int]:
        """Those of these whose rows are to be handed out, and that nobody had found missing."""
        expected = self._deep.expected
        return {event_id for event_id in expected & {*ids} if self._find(event_id) is None} if expected else set()

    def may_be_late(self, ids: Sequence[int]) -> list[int]:
        """Of ids that were announced, those at or below ``high`` whose row has not been admitted. Anybody may announce any:
        at or below ``start`` only what was held as a gap is new, and where nobody looked a bounded number is believed.
        """
        if not ids or (not self._gaps and not self._retired and min(ids) > self.floor):
            return []
        self._deep.announced(ids)
        return sorted({event_id for event_id in ids if 0 < event_id <= self._high and not self.seen(event_id)})

    def observe(self, owners: Collection[str]) -> None:
        """The transactions that hold a write lock on the table now, asked for after the read that showed the gaps."""
        current = frozenset(owners)
        prepared = frozenset(owner for owner in current if owner.startswith("-1/"))
        self._deep.narrow(current, prepared)
        for gap in self._gaps:
            gap.narrow(current, prepared)
        self._gaps = joined(self._gaps)

    def forget_owners(self) -> None:
        """The server was restarted or replaced: transaction names mean nothing any more, so ask again."""
        self._deep.forget_owners()
        for gap in self._gaps:
            gap.forget_owners()

    def rewind(self, high: int) -> None:
        """The server's history was replaced by one that knows ids up to ``high`` only; later ones will be given anew."""
        if high < self._high:
            self._high = high
            self._start = min(self._start, high)
            self._deep.rewind(high)
            for gap in self._gaps:
                if gap.highs[-1] > high:
                    gap.keep([(low, min(last, high)) for low, last in gap.spans if low <= high])
            self._gaps = [gap for gap in self._gaps if gap.lows]
            self._retired = [(low, min(last, high)) for low, last in self._retired if low <= high]

    @property
    def resolvable(self) -> list[tuple[int, int]]:
        """Spans that are to be read, the lowest of them; the next are there when these are ``retire``d. Where all possible
        owners have ended, one more read, made after this was asked, decides. Where some have, their rows are there.
        """
        early = not any(gap.awaits for gap in self._gaps)
        spans = (span for gap in self._gaps if early or not gap.owners for span in gap.unread)
        return list(islice(spans, _DECIDED))

    def retire(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The last read over these resolvable spans has been admitted: what is still missing in them never comes, unless
        some of its owners go on. Returns what was retired, ascending.
        """
        ended = union(list(spans), [])
        retired: list[tuple[int, int]] = []
        for gap in self._gaps:
            if not ended or gap.lows[0] > ended[-1][1]:
                break
            if gap.owners:
                gap.was_read(ended[-1][1])
            elif gap.owners is not None:
                retired += [span for span in gap.spans if covers(ended, span)]
        self.give_up(retired)
        return retired

    def give_up(self, gaps: Collection[tuple[int, int]]) -> None:
        """These gaps (disjoint) are over: nothing comes in them any more."""
        if not gaps:
            return
        over = sorted(gaps)
        first, last = over[0][0], over[-1][1]
        # One that was held, and of which no row came, may lie ahead of whoever follows.
        self._high = max(self._high, last)
        for gap in self._gaps:
            if gap.lows[0] <= last and gap.highs[-1] >= first:
                gap.keep(without(list(gap.spans), over))
        self._gaps = [gap for gap in self._gaps if gap.lows]
        self._retired = sorted([*self._retired, *over])[-_RETIRED_KEPT:]

    def _open(self, low: int, high: int, now: float) -> None:
        self._opened += 1
        last = self._gaps[-1] if self._gaps else None
        if last is None or last.owners is not None or len(last.lows) >= TOGETHER:
            last = Gap(array("q"), array("q"), now)
            self._gaps.append(last)
        last.lows.append(low)
        last.highs.append(high)

    def _retired_at(self, event_id: int) -> int | None:
        at = bisect_left(self._retired, event_id, key=itemgetter(1))
        return at if at < len(self._retired) and self._retired[at][0] <= event_id else None

    def _find(self, event_id: int) -> int | None:
        """The gap that holds this id."""
        at = bisect_left(self._gaps, event_id, key=lambda gap: gap.highs[-1])
        if at == len(self._gaps):
            return None
        gap = self._gaps[at]
        return at if gap.lows[bisect_left(gap.highs, event_id)] <= event_id else None

    def _fill(self, event_id: int) -> None:
        at = self._find(event_id)
        self._deep.handed_out(event_id, missed=at is not None)
        if at is not None:
            self._gaps[at].take(event_id)
            if not self._gaps[at].lows:
                del self._gaps[at]
            return
        index = self._retired_at(event_id)
        if index is not None:
            low, high = self._retired[index]
            parts = [(low, event_id - 1), (event_id + 1, high)]
            self._retired[index : index + 1] = [part for part in parts if part[0] <= part[1]]
