"""A gap: ids that were not visible when higher ones were, and who may own them. Pure: no I/O, no clock."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, final

import msgspec

__all__ = ["TOGETHER", "Gap", "joined", "over", "packed"]

TOGETHER: Final = 2_048
"""Spans in one gap: 16 bytes each, and moved when one in the middle is taken out."""
_PREPARED: Final = "-1/"
# So often the owners are asked for before it is read while some of them go on.
_OVERDUE: Final = 4
# And then when they have been a quarter as often again, or so often: once a second, at the most.
_SELDOM: Final = 30


@final
class Gap(msgspec.Struct):
    """Spans of ids that were not visible when higher ones were, neighbours with the same possible owners; packed, since
    many that are rolled back beside one long transaction make as many spans.

    It is read once when all owners have ended, and then it is over; and some times before, when some of them have, and now
    and then: one that does not end is not to keep the rows of the others back.
    """

    lows: array[int]
    highs: array[int]
    """Inclusive."""
    since: float
    """When the first of them was seen, in seconds of the caller's clock."""
    owners: frozenset[str] | None = None
    """Transactions that may own them; None until they have been asked for. Empty: one more read decides."""
    asked: int = 0
    """How often they were."""
    ended: bool = False
    """Some of them have ended since it was last read."""
    reread_to: int | None = None
    """It is being read before all of them have, and has been up to this id; None: it is not."""
    again: int = _OVERDUE
    """When it is to be read again, by how often they were."""
    awaits: bool = False
    """A row is visible in it, whose id another one is to have: only when all have ended that may be read."""

    @property
    def spans(self) -> Iterator[tuple[int, int]]:
        """As ``(low, high)``, ascending."""
        return zip(self.lows, self.highs, strict=True)

    @property
    def unread(self) -> Iterator[tuple[int, int]]:
        """The spans that are to be read now."""
        if self.owners is None:
            return iter(())
        if not self.owners:
            return self.spans
        upto = self.reread_to
        return iter(()) if upto is None else ((max(low, upto + 1), high) for low, high in self.spans if high > upto)

    def narrow(self, current: frozenset[str], prepared: frozenset[str]) -> None:
        """These hold a write lock now, and these of them are prepared."""
        if self.owners is None:
            self.owners = current
        elif not self.owners <= current:
            left = self.owners & current
            # A candidate is gone: ended, or prepared and now known by another name.
            self.owners = left | prepared if any(not o.startswith(_PREPARED) for o in self.owners - left) else left
            self.ended = True
        self.asked += 1
        # By then what is announced has come; and now and then, since beside one that goes on a replica does not tell who ends.
        if self.asked >= _OVERDUE and self.reread_to is None and (self.ended or self.asked >= self.again):
            self.reread_to, self.ended = self.lows[0] - 1, False

    def was_read(self, upto: int) -> None:
        """All that was to be read up to there."""
        if self.reread_to is not None:
            self.reread_to = max(self.reread_to, upto) if upto < self.highs[-1] else None
            self.again = self.asked + min(self.asked // 4 + 1, _SELDOM)

    def forget_owners(self) -> None:
        """Who they are is to be asked anew."""
        self.owners, self.asked, self.again, self.ended, self.reread_to = None, 0, _OVERDUE, False, None

    def keep(self, spans: Sequence[tuple[int, int]]) -> None:
        """These alone."""
        self.lows = array("q", [low for low, _ in spans])
        self.highs = array("q", [high for _, high in spans])

    def take(self, event_id: int) -> None:
        """Without this id, which is in one of them."""
        at = bisect_left(self.highs, event_id)
        low, high = self.lows[at], self.highs[at]
        if low == high:
            del self.lows[at], self.highs[at]
        elif event_id == low:
            self.lows[at] = event_id + 1
        elif event_id == high:
            self.highs[at] = event_id - 1
        else:
            self.highs.insert(at, event_id - 1)
            self.lows.insert(at + 1, event_id + 1)


def over(gaps: Iterable[Gap]) -> list[tuple[int, int]]:
    """Spans whose possible owners have all ended: what is visible in them is all there will be."""
    return [span for gap in gaps if gap.owners is not None and not gap.owners for span in gap.spans]


def packed(spans: Sequence[tuple[int, int]], now: float) -> list[Gap]:
    """Ascending spans as gaps that were seen at this time."""
    made: list[Gap] = []
    for start in range(0, len(spans), TOGETHER):
        gap = Gap(array("q"), array("q"), now)
        gap.keep(spans[start : start + TOGETHER])
        made.append(gap)
    return made


def joined(gaps: Sequence[Gap]) -> list[Gap]:
    """Neighbours whose owners are the same by now are one, unless they are just being read."""
    made: list[Gap] = []
    for gap in gaps:
        last = made[-1] if made else None
        if (
            last is not None
            and (last.owners, last.reread_to) == (gap.owners, None)
            and gap.reread_to is None
            and len(last.lows) + len(gap.lows) <= TOGETHER
        ):
            last.lows += gap.lows
            last.highs += gap.highs
            last.since = min(last.since, gap.since)
            last.ended, last.awaits = last.ended or gap.ended, last.awaits or gap.awaits
        else:
            made.append(gap)
    return made
