"""The lanes that the index is read by: those that were named by option, and those that the server registers. No I/O.

Whoever may write the set of lanes can fill it, empty it, or put something else in its place. So there are only so many,
and those that have been read before come first; and what is registered no longer is still read, where that costs little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, final

from ffcompletion.backends.valkey.replies import text_of
from ffcompletion.foreign.logs import logger

__all__ = ["MOST_LANES", "Lanes", "is_lane"]

_log: Final = logger("ffcompletion.valkey")

MOST_LANES: Final = 1_000
"""Registered ones. With 256 partitions they make 256,000 keys, which take some seconds to look at."""
# So many are read on when nobody registers them any more.
_FEW: Final = 64
# Where nobody names any: what our own producers' examples write to.
_ONLY_LANE: Final = "default"
_LANE: Final = re.compile(r"[\x20-\x7e]{1,64}")


@final
class Lanes:
    """``given``: by option, however many."""

    def __init__(self, given: Iterable[str]) -> None:
        self._given = frozenset(given)
        self._known: dict[str, None] = {}
        self._reported = False
        self.names: Sequence[str] = ()

    def registered(self, found: Iterable[object], *, whole: bool) -> None:
        """These are registered now; ``whole``: they are all."""
        names = {lane for item in found if (lane := text_of(item)) is not None and is_lane(lane)} - self._given
        kept = [lane for lane in self._known if lane in names or not whole or len(self._known) <= _FEW]
        fresh = sorted(names.difference(kept))
        self._known = dict.fromkeys((kept + fresh)[:MOST_LANES])
        if not whole or len(kept) + len(fresh) > MOST_LANES:
            if not self._reported:
                _log.warning(
                    "more than %d lanes are registered: what is never announced is looked for in so many of them, and in"
                    " those that the option names",
                    MOST_LANES,
                )
            self._reported = True
        self.names = sorted(self._given.union(self._known)) or (_ONLY_LANE,)


def is_lane(text: str) -> bool:
    """Whether the engine takes it for a lane's name."""
    return _LANE.fullmatch(text) is not None
