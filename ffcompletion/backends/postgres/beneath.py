"""What a stream that resumes far below where the reader began finds missing there: told to whoever leads, and what follows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Protocol, final

from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.spans import Spans, missing, without
from ffcompletion.backends.postgres.states import Read

__all__ = ["Beneath"]


class _Place(Protocol):
    tracker: GapTracker


class _Leader(Protocol):
    tracker: GapTracker
    settle_at: float

    @property
    def behind(self) -> Sequence[_Place]: ...


@final
class Beneath:
    """The reader looked a bounded number of rows back when it began. Whoever was under way then may own ids below that."""

    def __init__(self, leader: _Leader) -> None:
        self._leader = leader

    @property
    def upto(self) -> int:
        """Ids up to here may be owned by somebody who was under way, and nobody looked; 0: none."""
        return self._leader.tracker.owned

    def missing(self, step: Read, reached: int, ids: Iterable[int]) -> Spans:
        """What was missing when the rows of ``(step.after, reached]`` were read, which had these ids (ascending)."""
        upto = min(reached, self.upto)
        if upto <= step.after:
            return []
        found = (event_id for event_id in ids if step.after < event_id <= upto)
        return without(missing([step.after, *found, upto + 1]), step.holes)

    def missed(self, spans: Spans) -> None:
        """They are gaps from now on: who may own them is asked, and their rows are handed out when they come."""
        leader, now = self._leader, time.monotonic()
        leader.tracker.miss(spans, now)
        for place in leader.behind:
            place.tracker.miss(spans, now)
        leader.settle_at = min(leader.settle_at, now)
