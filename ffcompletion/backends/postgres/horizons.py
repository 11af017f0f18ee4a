"""Who may own an id on a replica, whose lock table knows no writers: everybody who had a number by then. Pure.

Whoever owns an id that is missing was given its transaction's number before a higher id was seen, or a moment later; and it
has ended when everything has that was numbered up to then. So instead of owners there are horizons, each of them the
next number to be given out at some time: over once no lower one is under way.
"""

from __future__ import annotations

from typing import Final, LiteralString, final

import msgspec

__all__ = ["HORIZON", "Horizons", "next_number"]

# The oldest transaction under way, the number beyond all that have ended, and the age of number 3.
HORIZON: Final[LiteralString] = (
    "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, age('3'::xid)"
    " FROM (SELECT pg_current_snapshot() AS s) t"
)

# For so long the newest goes on rising: an id may be given out, and a higher one be seen, before its owner is numbered, or
# before the replica has met that number in the log.
_RISES_S: Final = 1.0
# So many at the most. While one that does not end keeps them all, the newest rises: none of them would be over anyway.
_MOST: Final = 16


class _Horizon(msgspec.Struct):
    number: int
    upto: int
    rises_until: float


@final
class Horizons:
    """Those that are not over. The clock is passed in, in seconds."""

    def __init__(self) -> None:
        self._open: list[_Horizon] = []
        self._made = 0

    def seen(self, oldest: int, upto: int, now: float) -> list[str]:
        """The names of those that are not over, given the oldest transaction under way and the next number; never none."""
        self._open = [each for each in self._open if each.upto > oldest or each.rises_until > now]
        if self._open and (self._open[-1].rises_until > now or len(self._open) >= _MOST):
            self._open[-1].upto = upto
        else:
            self._made += 1
            self._open.append(_Horizon(self._made, upto, now + _RISES_S))
        return [f"horizon {each.number}" for each in self._open]


def next_number(completed: int, age: int) -> int:
    """The next number, of 64 bits, that a transaction is given: ``completed`` is beyond all that have ended, ``age`` how far
    the next one's 32 bits lie beyond number 3's.
    """
    return completed + (age + 3 - completed) % (1 << 32)
