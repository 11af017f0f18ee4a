"""``PostgresBackend``: the public class. Options, subscribing, closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar, final

import psycopg
from psycopg_pool import AsyncConnectionPool
from typing_extensions import override

from ffcompletion.backends.postgres.catchup import PageReader
from ffcompletion.backends.postgres.connection import Connection, Target, deadline, plan_generically
from ffcompletion.backends.postgres.errors import driver_errors, may_pass
from ffcompletion.backends.postgres.feed import Feed
from ffcompletion.backends.postgres.live import Live
from ffcompletion.backends.postgres.pool import BorrowedPool, OwnPool, Pool
from ffcompletion.backends.postgres.position import resume_after
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.reader import log
from ffcompletion.backends.postgres.snapshots import describe, members
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Transport, Unavailable, Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.protocols import CompletionFilter, ResumableBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendState, BackendStats, Observer
from ffcompletion.delivery.adapter import Adapter
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.stream import Subscription
from ffcompletion.foreign.filters import checked_filter

__all__ = ["PostgresBackend"]

# A connection that nobody uses is closed after so many seconds: the next question of a series finds one.
_IDLE_S: Final = 5.0
_T = TypeVar("_T")


@final
class PostgresBackend(Adapter):
    """Completions from FlowFabric's outbox on Postgres, 15 or later. At least once; in one stream each row once,
    whatever the commit order; resumable from a cursor across restarts.

    ``conninfo``: a ``postgresql://`` URL or any libpq connection string. One LISTEN connection and one reader serve
    any number of streams; streams that catch up borrow from a pool of ``pool_size`` connections.

    - ``schema``: where the engine's tables are; None leaves it to ``search_path``.
    - ``poll_interval``: seconds between looks at the outbox without a wake-up, the safety net behind NOTIFY. 0 turns
      polling off; then a server whose LISTEN does not work (a replica, a pooler) is refused.
    - ``buffer_size``: completions that may wait for one consumer before it is left to read at its own pace.
    - ``setup_timeout``: seconds within which subscribing succeeds or raises. ``read_timeout``: seconds after which a
      read counts as failed and is tried again on a new connection.
    - ``pool``: a pool of your own, opened and closed by you; the reader keeps one connection of it while streams are
      open. Its connections must be in autocommit.
    - ``observer``: told of each change of state.

    Needs CONNECT on the database, USAGE on the schema, SELECT on ``ff_completion_event`` and, for filters and
    results, on ``ff_exec_core``. Writes nothing. Belongs to the event loop that it is first used on.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str | None = None,
        poll_interval: float = 1.0,
        buffer_size: int = 10_000,
        setup_timeout: float = 8.0,
        read_timeout: float = 10.0,
        pool: AsyncConnectionPool[Connection] | None = None,
        pool_size: int = 4,
        observer: Observer | None = None,
    ) -> None:
        if poll_interval < 0 or buffer_size < 1 or setup_timeout <= 0 or read_timeout <= 0 or pool_size < 2:
            raise Validation(
                "option", "poll_interval ≥ 0, buffer_size ≥ 1, pool_size ≥ 2, and timeouts above 0 are needed"
            )
        self._target = Target(conninfo, setup_timeout)
        self._queries = Queries(schema)
        super().__init__(Link("postgres", log, observer, Backoff()), setup_timeout)
        self._read_s = read_timeout
        self._buffer_size = buffer_size
        self._borrowed = None if pool is None else BorrowedPool(pool)
        self._pool_size = pool_size
        # Ours, of one event loop.
        self._own: OwnPool | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._hub = Hub()
        self._live = Live(
            self._target,
            self._queries,
            self._hub,
            self._link,
            self._rewound,
            poll_interval_s=poll_interval,
            read_timeout_s=read_timeout,
        )

    # ── subscribing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def subscribe_completions(self, *, results: bool = False) -> Subscription:
        """A live stream of every completion. ``results``: payloads carry the stored result."""
        return await self._subscribe(None, None, results)

    async def subscribe_completions_filtered(
        self,
        filter: CompletionFilter,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """The same, for what ``filter`` admits. Raises ``Unavailable`` where there is nothing to decide filters by."""
        return await self._subscribe(None, filter, results)

    async def subscribe_completions_from(
        self,
        cursor: StreamCursor,
        filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """Every completion after ``cursor``: stored ones first, at the consumer's pace, then live, without a seam.

        Raises ``Validation`` for a cursor of another backend or from the future of this outbox, ``CursorExpired``
        where rows after it have been trimmed.
        """
        return await self._subscribe(cursor, filter, results)

    async def _subscribe(
        self, cursor: StreamCursor | None, wanted: CompletionFilter | None, results: bool
    ) -> Subscription:
        narrowed = checked_filter(wanted)
        after = None if cursor is None or cursor.is_empty else _event_id(cursor)
        async with driver_errors(self._target.shown, "subscribe"), self._setting_up():
            pool = await self._ensure_started()
            feed = await self._open_feed(pool, after, Selector(narrowed, results))
        return Subscription(feed, "postgres")

    async def _open_feed(self, pool: Pool, after: int | None, selector: Selector) -> Feed:
        session = self._live.session
        if session is None:
            raise Transport(self._target.shown, "the connection is being mended; try again")
        if (selector.filter is not None or selector.results) and not session.has_core:
            raise Unavailable("subscribe_completions_filtered", session.core_problem)
        if after is not None:
            wanted = after
            after = await self._execute(lambda conn: resume_after(conn, self._queries, wanted))
        pages = PageReader(pool, self._queries, session.lookups(), pooled=session.pooled, read_timeout_s=self._read_s)
        reader = self._live.reader
        if selector.filter is None and not selector.results:
            feed = Feed(reader, self._hub, pages, selector, self._buffer_size, self._closed, after)
        else:
            feed = Feed(reader.lane, reader.lane.hub, pages, selector, self._buffer_size, self._closed, after)
        self._feeds.add(feed)
        return feed

    async def _ensure_started(self) -> Pool:
        pool = self._connections()
        if self._link.state is not BackendState.IDLE:
            await self._live.flowing(self._setup_s)
            return pool
        await self._live.start(pool)
        return pool

    def _connections(self) -> Pool:
        if self._borrowed is not None:
            return self._borrowed
        loop = asyncio.get_running_loop()
        if self._own is None or self._own_loop is not loop:
            if self._own is not None and self._own_loop is not None and self._own_loop.is_closed():
                self._own.bury()
            self._own, self._own_loop = OwnPool(self._connect, self._pool_size, _IDLE_S), loop
        return self._own

    async def _connect(self) -> Connection:
        conn = await self._target.connect()
        try:
            with deadline(conn, self._setup_s):
                await plan_generically(conn)
        except BaseException:
            conn.pgconn.finish()
            raise
        return conn

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The executions as core record and outbox say, in one query; None where neither knows it."""
        ids = [ExecutionId(execution_id) for execution_id in execution_ids]
        return await self._ask(
            "describe_execution", lambda conn: describe(conn, self._queries, ids, result=result, prepare=False)
        )

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The flow's members as the core records say; empty where there is none. Raises ``Validation``."""
        flow = FlowId(flow_id)
        return await self._ask("flow_members", lambda conn: members(conn, self._queries, flow))

    async def _ask(self, op: str, question: Callable[[Connection], Awaitable[_T]]) -> _T:
        async with driver_errors(self._target.shown, op), self._asking(op):
            return await self._execute(question)

    async def _execute(self, question: Callable[[Connection], Awaitable[_T]]) -> _T:
        """The answer. A question changes nothing: one that meets a connection gone stale is asked once more."""
        pool = self._connections()
        for last in (False, True):
            async with pool.connection(timeout=self._setup_s * 0.8) as conn:
                try:
                    with deadline(conn, self._read_s):
                        return await question(conn)
                except psycopg.Error as exc:
                    if last or not conn.broken or not may_pass(exc):
                        raise
            # The idle ones are as old.
            await pool.drain()
        raise AssertionError("unreachable")

    # ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def aclose(self) -> None:
        await super().aclose()
        own, self._own = self._own, None
        if own is not None and self._own_loop is asyncio.get_running_loop():
            own.abort()

    def _rewound(self, high: int) -> None:
        for feed in self._feeds:
            if isinstance(feed, Feed):
                feed.rewind(high)

    @override
    async def _stop(self) -> None:
        await self._live.stop()

    # ── looking at it ────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        reader = self._live.reader
        gaps = reader.tracker.gaps
        return BackendStats(
            state=self._link.state,
            streams=len(self._feeds),
            received=reader.received,
            malformed=reader.malformed,
            reconnects=self._link.reconnects,
            gaps=self._link.reconnects,
            held=reader.tracker.held,
            waiting=reader.lane.waiting,
            held_since_s=time.monotonic() - min(gap.since for gap in gaps) if gaps else 0.0,
        )

    @override
    def __repr__(self) -> str:
        return f"<PostgresBackend {self._target.shown}, {self._link.state.value}, {len(self._feeds)} streams>"


def _event_id(cursor: StreamCursor) -> int:
    if cursor.is_beginning:
        return 0
    event_id = cursor.event_id
    if event_id is None:
        raise Validation("cursor", "it belongs to another backend; Postgres cursors begin with 0x02")
    return event_id


if TYPE_CHECKING:
    _: type[ResumableBackend] = PostgresBackend
