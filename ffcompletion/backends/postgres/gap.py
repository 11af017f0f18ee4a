"""A gap: ids that were not visible when higher ones were, and who may own them. Pure: no I/O, no clock."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, final

import msgspec

__all__ = ["TOGETHER", "Gap", "packed"]

TOGETHER: Final = 2_048
"""Spans in one gap: 16 bytes each, and moved when one in the middle is taken out."""


@final
class Gap(msgspec.Struct):
    """Spans of ids that were not visible when higher ones were, neighbours with the same possible owners; packed, since
    many that are rolled back beside one long transaction make as many spans.
    """

    lows: array[int]
    highs: array[int]
    """Inclusive."""
    since: float
    """When the first of them was seen, in seconds of the caller's clock."""
    owners: frozenset[str] | None = None
    """Transactions that may own them; None until they have been asked for. Empty: one more read decides."""

    @property
    def spans(self) -> Iterator[tuple[int, int]]:
        """As ``(low, high)``, ascending."""
        return zip(self.lows, self.highs, strict=True)

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


def packed(spans: Sequence[tuple[int, int]], now: float) -> list[Gap]:
    """Ascending spans as gaps that were seen at this time."""
    made: list[Gap] = []
    for start in range(0, len(spans), TOGETHER):
        gap = Gap(array("q"), array("q"), now)
        gap.keep(spans[start : start + TOGETHER])
        made.append(gap)
    return made
