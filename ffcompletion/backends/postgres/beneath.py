"""Far below where the reader began: what a stream that resumes there finds missing, and what is announced of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString, Protocol, cast, final

from ffcompletion.backends.postgres.announced import Hints
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.spans import Spans, missing, without
from ffcompletion.backends.postgres.states import Read

__all__ = ["Beneath"]


# Transactions and subtransactions that have not ended: each holds a lock on its own number, but for one that was released,
# and on a replica: so the newest numbers are asked for one by one, as many as take 0.2 s. And the next one's; the oldest;
# and whether there are more between these. Numbers are those that rows bear, of 32 bits.
_ONE_BY_ONE: Final = 200_000
_UNDER_WAY: Final[LiteralString] = (
    "SELECT array(SELECT transactionid::text::bigint FROM pg_locks WHERE locktype = 'transactionid' AND granted"
    " AND mode = 'ExclusiveLock' UNION SELECT mod(x::text::bigint, 4294967296) FROM pg_snapshot_xip(s) AS x"
    " UNION SELECT mod(x, 4294967296) FROM generate_series(greatest(low, high - %s), high - 1) AS x"
    " WHERE pg_xact_status(x::text::xid8) = 'in progress'), mod(high, 4294967296), mod(low, 4294967296), high - low > %s"
    " FROM (SELECT s, pg_snapshot_xmin(s)::text::bigint AS low, pg_snapshot_xmax(s)::text::bigint AS high"
    " FROM (SELECT pg_current_snapshot() AS s) c) t"
)
# Whether a row that bears number ``x`` had not been committed then: its writer was under way, or has been numbered since.
_SINCE: Final[LiteralString] = (
    "(x = ANY(%s::bigint[]) OR mod(x - %s + 4294967296, 4294967296)"
    " < mod(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - %s + 4294967296, 4294967296))"
)
_LATE: Final[LiteralString] = (
    "SELECT event_id, x FROM (SELECT event_id, xmin::text::bigint AS x FROM {outbox} WHERE event_id = ANY(%s::bigint[])) t WHERE "
    + _SINCE
)
_BESIDE: Final[LiteralString] = (
    "SELECT event_id FROM {outbox} WHERE event_id > %s AND event_id < %s AND xmin::text::bigint = ANY(%s::bigint[])"
)
# Of so many rows up to this one: the lowest's id, and the ids of those that had not been committed then. Not of one that the
# engine has claimed: that gives it another number, whoever wrote it.
_ALL_LATE: Final[LiteralString] = (
    "SELECT coalesce(min(event_id), 1), coalesce(array_agg(event_id) FILTER (WHERE dispatched_at_ms IS NULL AND "
    + _SINCE
    + "), '{{}}') FROM (SELECT event_id, dispatched_at_ms, xmin::text::bigint AS x FROM {outbox}"
    " WHERE event_id <= %s ORDER BY event_id DESC LIMIT %s) t"
)
# Rows in one such question, some 40 ms; how many of them there are; and after how long it is begun anew, at the least.
_ROWS: Final = 5_000
_STRETCHES: Final = 200
_AGAIN_S: Final = 30.0
# Ids that are looked through for what one statement wrote before its last row, at a time, and how often in one go.
_WITHIN: Final = 5_000
_MOST_LOOKS: Final = 50


class _Session(Protocol):
    @property
    def polling_reason(self) -> str: ...

    async def fetch(
        self, query: LiteralString | bytes, values: Sequence[object] = (), *, read: bool = False
    ) -> list[Any]: ...


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
        # Who was under way, and the next number; twice, as the texts want it. And what is believed of announcements.
        self._then: tuple[list[int], int, int] = ([], 0, 0)
        self._announced = self._then
        # Whom announcements were heard on last, and what is to be looked through since some may not have been.
        self._session: _Session | None = None
        self._high = self._stretches = 0
        self._again_at, self._again_s = 0.0, _AGAIN_S
        # Until when it is looked through once more though all have ended; 0: no more.
        self._until = 0.0

    @property
    def upto(self) -> int:
        """Ids up to here may be owned by somebody who was under way, and nobody looked; 0: none."""
        return self._leader.tracker.owned

    @property
    def unfinished(self) -> bool:
        """Whether there is more to look through that may not have been heard of."""
        return bool(self._stretches)

    async def begin(self, session: _Session) -> None:
        """The reader has begun: only who is under way by now may still commit rows down there."""
        self._session = session
        if self._leader.tracker.floor:
            rows = await session.fetch(_UNDER_WAY, (_ONE_BY_ONE, _ONE_BY_ONE))
            under_way, following, oldest, more = cast("tuple[list[int], int, int, bool]", rows[0])
            self._then = under_way, following, following
            # Of a subtransaction that was released long ago nothing tells: rather one too many than one too few.
            self._announced = (under_way, oldest, oldest) if more else self._then

    async def believed(self, session: _Session, hints: Hints) -> Hints:
        """Announcements, which are anybody's: without rows far below that were there when the reader began, and with what
        the same transactions wrote just before, since of a statement's rows the last alone may be announced.
        """
        floor = self._leader.tracker.floor
        deep = [event_id for event_id in hints.ids if event_id <= floor]
        unheard = await self._not_heard(session, hints) if self.upto or self._until or self._stretches else ()
        if not deep and not unheard:
            return hints
        late = await session.fetch(self._queries.compose(_LATE), (deep, *self._announced))
        found = {*unheard, *(event_id for event_id, _ in late)}
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

    async def _not_heard(self, session: _Session, hints: Hints) -> Sequence[int]:
        """What is there of what was under way, where it may have been announced and not been heard: on a connection that
        broke, among too many others, or where nothing is heard at all. A stretch of it at a time.
        """
        now, over = time.monotonic(), not self.upto
        another = session is not self._session
        if not over:
            self._until = now + _AGAIN_S
        elif now >= self._until and not another and not session.polling_reason:
            # What the last of them announced has come.
            self._until = 0.0
        again = (hints.look or session.polling_reason) and (over or now >= self._again_at)
        if (again or another) and self._until:
            self._until = 0.0 if over else self._until
            # More and more seldom, beside one that does not end.
            self._again_s = self._again_s * 2 if again else _AGAIN_S
            self._session, self._again_at = session, now + self._again_s
            self._high, self._stretches = self._leader.tracker.floor, _STRETCHES
        if not self._stretches:
            return ()
        values = (*self._then, self._high, _ROWS)
        rows = await session.fetch(self._queries.compose(_ALL_LATE), values, read=True)
        low, late = cast("tuple[int, list[int]]", rows[0])
        self._high = max(0, low - 1)
        self._stretches = self._stretches - 1 if self._high else 0
        return late

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

    def missed(self, spans: Spans) -> Spans:
        """They are gaps from now on: who may own them is asked, and their rows are handed out when they come. Returns those
        of which that is true: the others have come since, to those that had not resumed below them.
        """
        leader, now = self._leader, time.monotonic()
        gaps = leader.tracker.miss(spans, now)
        for place in leader.behind:
            # Nor are those gaps where they still wait for records.
            place.tracker.miss(gaps, now)
        leader.settle_at = min(leader.settle_at, now)
        return gaps
