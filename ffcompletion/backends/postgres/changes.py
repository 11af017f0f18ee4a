"""Which partitions of the records are worth a look: those that somebody has written to. No I/O; time is passed in.

The engine's index leads to the terminal records of a partition and lane, all of them, and a question over 256 partitions
is dear even where nothing has happened. The server counts what is written to each partition, so those that were left
alone are passed over. Its counts come late: an idle connection tells what it wrote within 10 s (PGSTAT_IDLE_INTERVAL),
one in a transaction when that ends. So they are asked for several times in an interval; what was counted late is looked
for since the partition's own last look; and now and then everything is looked at, whatever was counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

import msgspec

__all__ = ["Changes", "Plan"]

# Partitions in one question, unless a look at everything is known to take no longer than this: what a question costs
# by itself, over 512 partitions, is more than most of them hold.
_TOGETHER: Final = 64
_QUICK_S: Final = 0.5
# A look at everything that takes no longer than this is cheaper than telling what to leave out; where counts would be
# later than the interval, a dearer one is preferred to them. The first one is not counted: it is also planned.
_CHEAP_S: Final = 0.005
_DEAR_S: Final = 0.1
_DEAR_LOOKS: Final = 2
# Within this interval, late counts come in time as well, asked for so many times.
_PATIENT_S: Final = 15.0
_CHECKS: Final = 3
# Looking at everything takes this share of the time at the most, unless it is long ago.
_SHARE: Final = 1 / 2_000
_LONG_S: Final = 3_600.0


@final
class Plan(msgspec.Struct, frozen=True):
    """How to look, on a server."""

    keys: range
    """Partition keys; empty where the records are one table."""
    lanes: list[str] | None
    """None: where lanes cannot be asked for, or there are none; then whole partitions are read."""

    def pieces(self, keys: Sequence[int], together: int = _TOGETHER) -> list[Sequence[int]]:
        """These partitions, so many together as one question."""
        if not self.keys:
            return [()]
        return [keys[start : start + together] for start in range(0, len(keys), together)]


@final
class Changes:
    """Counts of what was written, from look to look. Times are in seconds, monotonic."""

    __slots__ = ("_counts", "_dear", "_interval_s", "_looked_at", "_pending", "_took_s", "_whole_at", "available")

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self.available: bool = False
        """The server counts what is written to each partition, and tells by and by."""
        self._counts: dict[int, int] = {}
        # Written to since they were looked at.
        self._pending: set[int] = set()
        self._looked_at: dict[int, float] = {}
        # When everything was looked at, and how long that took.
        self._whole_at: float | None = None
        self._took_s: float | None = None
        self._dear = 0

    def forget(self) -> None:
        """The server may be another by now, and counts anew."""
        self._counts.clear()
        self._looked_at.clear()

    @property
    def counts_wanted(self) -> bool:
        """Whether there are counts, and looking at everything was so dear that they are worth asking for."""
        return self.available and self._dear >= _DEAR_LOOKS

    @property
    def every_s(self) -> float:
        """How often to ask which partitions are worth a look."""
        return self._interval_s / _CHECKS if self.counts_wanted else self._interval_s

    def together(self, keys: int) -> int:
        """How many of so many partitions are to be looked at in one question."""
        return _TOGETHER if self._took_s is None or self._took_s > _QUICK_S else max(keys, _TOGETHER)

    def to_look_at(self, counts: Mapping[int, int], now: float) -> list[int]:
        """The keys of the partitions to look at, given how much was written to each: none twice in an interval."""
        self._pending |= {key for key, count in counts.items() if self._counts.get(key) != count}
        self._counts = dict(counts)
        if self._whole_due(now):
            return sorted(counts)
        before = now - self._interval_s
        return sorted(key for key in self._pending & counts.keys() if self._looked_at.get(key, before) <= before)

    def _whole_due(self, now: float) -> bool:
        if self._whole_at is None or self._took_s is None:
            return True
        return now - self._whole_at >= min(self._took_s / _SHARE, _LONG_S)

    def looked_at(self, keys: Sequence[int], asked_at: float) -> None:
        """They were looked at; what is worth a look was asked for at that time."""
        self._pending.difference_update(keys)
        self._looked_at.update(dict.fromkeys(keys, asked_at))

    def looked_at_all(self, asked_at: float, took_s: float) -> None:
        """Everything was looked at, and took so long."""
        self._whole_at, self._took_s = asked_at, took_s
        cheap_s = _CHEAP_S if self._interval_s >= _PATIENT_S else _DEAR_S
        self._dear = self._dear + 1 if took_s > cheap_s else 0
