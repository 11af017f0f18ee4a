"""Which partitions of the records are worth a look: those that somebody has written to. No I/O, no clock.

The engine's index leads to the terminal records of a partition and lane, all of them; with a million records, reading
them at every look is dear. The server counts what is written to each partition, so those that were left alone since the
last look are passed over. The counts lag a little: a partition that has changed is looked at in the next look as well.
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
# A look at everything that takes no longer than this is cheaper than telling what to leave out. The first one is not
# counted: it is also planned.
_CHEAP_S: Final = 0.1
_DEAR_LOOKS: Final = 2
# Counts may be switched off, or be lost: so many looks, and everything is looked at.
_ALL_EVERY: Final = 240


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
    """Counts of what was written, from look to look."""

    __slots__ = ("_again", "_counts", "_dear", "_looks", "_took_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._again: set[int] = set()
        self._took_s: float | None = None
        self._dear = 0
        self._looks = 0

    @property
    def counts_wanted(self) -> bool:
        """Whether looking at everything was so dear that counts are worth asking for."""
        return self._dear >= _DEAR_LOOKS

    def together(self, keys: int) -> int:
        """How many of so many partitions are to be looked at in one question."""
        return _TOGETHER if self._took_s is None or self._took_s > _QUICK_S else max(keys, _TOGETHER)

    def to_look_at(self, counts: Mapping[int, int]) -> list[int]:
        """The keys of the partitions to look at, given how much was written to each."""
        self._looks += 1
        changed = {key for key, count in counts.items() if self._counts.get(key) != count}
        known = bool(self._counts)
        wanted = changed | self._again
        self._counts, self._again = dict(counts), changed
        return sorted(counts if not known or self._looks % _ALL_EVERY == 0 else wanted & counts.keys())

    def looked_at_all(self, took_s: float) -> None:
        """Everything was looked at, and took so long."""
        self._took_s = took_s
        self._dear = self._dear + 1 if took_s > _CHEAP_S else 0
