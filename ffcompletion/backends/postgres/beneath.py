"""Far below where the reader began: what a stream that resumes there finds missing, and what is announced of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString, Protocol, final

from ffcompletion.backends.postgres.announced import Hints
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.spans import Spans, missing, without
from ffcompletion.backends.postgres.states import Read

__all__ = ["Beneath"]


# Transactions and subtransactions that have not ended: each holds a lock on its own number. And the next one's. Numbers are
# those that rows bear, of 32 bits.
_UNDER_WAY: Final[LiteralString] = (
    "SELECT array(SELECT transactionid::text::bigint FROM pg_locks WHERE locktype = 'transactionid' AND granted"
    " AND mode = 'ExclusiveLock' UNION SELECT mod(x::text::bigint, 4294967296) FROM pg_snapshot_xip(s) AS x),"
    " mod(pg_snapshot_xmax(s)::text::bigint, 4294967296) FROM (SELECT pg_current_snapshot() AS s) t"
)
# Of these rows, those that had not been committed then.
_LATE: Final[LiteralString] = (
    "SELECT event_id, xmin::text::bigint FROM {outbox} WHERE event_id = ANY(%s::bigint[]) AND (xmin::text::bigint = ANY(%s::bigint[])"
    " OR mod(xmin::text::bigint - %s + 4294967296, 4294967296) < 2147483648)"
)
_BESIDE: Final[LiteralString] = (
    "SELECT event_id FROM {outbox} WHERE event_id > %s AND event_id < %s AND xmin::text::bigint = ANY(%s::bigint[])"
)
# Ids that are looked through for what one statement wrote before its last row, at a time, and how often in one go.
_WITHIN: Final = 5_000
_MOST_LOOKS: Final = 50


class _Session(Protocol):
    async def fetch(self, query: LiteralString | bytes, values: Sequence[object] = ()) -> list[Any]: ...


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

    def __init__(self, leader: _Leader, queries: Queries) -> None:
        self._leader = leader
        self._queries = queries
        self._under_way: list[int] = []
        self._next = 0

    @property
    def upto(self) -> int:
        """Ids up to here may be owned by somebody who was under way, and nobody looked; 0: none."""
        return self._leader.tracker.owned

    async def begin(self, session: _Session) -> None:
        """The reader has begun: only who is under way by now may still commit rows down there."""
        if self._leader.tracker.floor:
            ((self._under_way, self._next),) = await session.fetch(_UNDER_WAY)

    async def believed(self, session: _Session, hints: Hints) -> Hints:
        """Announcements, which are anybody's: without rows far below that were there when the reader began, and with what
        the same transactions wrote just before, since of a statement's rows the last alone may be announced.
        """
        floor = self._leader.tracker.floor
        deep = [event_id for event_id in hints.ids if event_id <= floor]
        if not deep:
            return hints
        late = await session.fetch(self._queries.compose(_LATE), (deep, self._under_way, self._next))
        found = {event_id for event_id, _ in late}
        writers, low, looks = list({number for _, number in late}), floor + 1, 0
        for event_id in sorted(found, reverse=True):
            if event_id > low:
                continue  # looked through already
            low, rows = event_id, late
            while rows and looks < _MOST_LOOKS:
                looks += 1
                rows = await session.fetch(self._queries.compose(_BESIDE), (low - _WITHIN, low, writers))
                found.update(row[0] for row in rows)
                low = min((row[0] for row in rows), default=low - _WITHIN)
        above = (event_id for event_id in hints.ids if event_id > floor)
        return Hints(tuple(sorted({*found, *above})), look=hints.look)

    @staticmethod
    def missing(step: Read, reached: int, ids: Iterable[int], upto: int) -> Spans:
        """What was missing when the rows of ``(step.after, reached]`` were read, which had these ids (ascending). ``upto``:
        what ``upto`` was before: whoever was under way may have committed meanwhile, and ended.
        """
        upto = min(reached, upto)
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
