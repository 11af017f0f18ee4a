"""``PostgresBackend``: the public class. Options, subscribing, closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import psycopg
from psycopg_pool import AsyncConnectionPool
from typing_extensions import override

from ffcompletion.backends.postgres.borrowed import BorrowedPool, check_pool
from ffcompletion.backends.postgres.connection import UNANSWERED, Connection, Target, deadline, make_ready
from ffcompletion.backends.postgres.errors import driver_errors, first_line, is_refusal, may_pass
from ffcompletion.backends.postgres.history import Mark
from ffcompletion.backends.postgres.options import Counters, Settings
from ffcompletion.backends.postgres.pool import OwnPool, Pool
from ffcompletion.backends.postgres.position import check_history, resume_after, silent_since
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.reader import log
from ffcompletion.backends.postgres.snapshots import describe, members
from ffcompletion.backends.postgres.source import Source
from ffcompletion.backends.postgres.supervisor import Supervisor
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Transport, Unavailable, Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.protocols import CompletionFilter, ResumableBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendStats, Observer
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.credentials import Password
from ffcompletion.delivery.hub import Selector
from ffcompletion.delivery.lifecycle import NetworkedBackend
from ffcompletion.delivery.stream import Subscription
from ffcompletion.delivery.tenure import Lease
from ffcompletion.foreign.filters import checked_filter

__all__ = ["PostgresBackend"]

# A connection that nobody uses is closed after so many seconds, or when `linger` is over, whichever is later.
_IDLE_S: Final = 5.0
_T = TypeVar("_T")


@final
class PostgresBackend(NetworkedBackend[Pool, Supervisor]):
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
    - ``reconcile_interval``: seconds between looks for executions that ended without a row in the outbox (the engine
      writes none when it cancels); each stream gets each of them once, at most this much later. 0 turns it off.
    - ``pool``: a pool of your own, opened and closed by you; the reader keeps one connection of it while streams are
      open. Its connections must be in autocommit and speak UTF8; how they read rows is as you like.
    - ``password``: instead of one in ``conninfo``. It may be a callable, plain or ``async``, which is asked at each
      connect: for passwords that are rotated, and tokens that do not last.
    - ``linger``: for how many seconds what was opened for a wait or a question stays for the next; closing the backend
      does not wait for it. 0 releases it at once.
    - ``observer``: told of each change of state.

    Needs CONNECT on the database, USAGE on the schema, SELECT on ``ff_completion_event`` and, for filters and
    results, on ``ff_exec_core``. Writes nothing. Follows its user from one event loop to the next; while it
    is in use on one, calls on another raise.
    """

    cursor_prefix: Final = 0x02
    """The first byte of its cursors."""

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str | None = None,
        poll_interval: float = 1.0,
        buffer_size: int = 10_000,
        setup_timeout: float = 8.0,
        read_timeout: float = 10.0,
        reconcile_interval: float = 15.0,
        pool: AsyncConnectionPool[Any] | None = None,
        pool_size: int = 4,
        password: Password | None = None,
        linger: float = 2.0,
        observer: Observer | None = None,
    ) -> None:
        setup_timeout = check_seconds("setup_timeout", setup_timeout, above_zero=True)
        linger = check_seconds("linger", linger)
        target = Target(conninfo, setup_timeout, password)
        self._settings = Settings(
            target=target,
            queries=Queries(schema),
            poll_interval_s=check_seconds("poll_interval", poll_interval),
            read_timeout_s=check_seconds("read_timeout", read_timeout, above_zero=True),
            buffer_size=check_count("buffer_size", buffer_size),
            reconcile_interval_s=check_seconds("reconcile_interval", reconcile_interval),
        )
        self._given_pool = check_pool(pool)
        self._pool_size = check_count("pool_size", pool_size, 2)
        self._counters = Counters()
        super().__init__(ConnectionState("postgres", log, observer, Backoff()), target.shown, setup_timeout, linger)

    @override
    async def _make_exchange(self) -> Pool:
        limit_s = self._settings.read_timeout_s
        if self._given_pool is not None:
            return BorrowedPool(self._given_pool, limit_s)
        return OwnPool(self._connect, self._pool_size, max(_IDLE_S, self._linger_s), limit_s)

    @override
    async def _make_run(self, exchange: Pool) -> Supervisor:
        return await Supervisor.open(self._settings, self._connection, self._counters, exchange)

    async def _connect(self, limit_s: float) -> Connection:
        conn = await self._settings.target.connect()
        try:
            with deadline(conn, limit_s, UNANSWERED):
                await make_ready(conn, limit_s)
        except BaseException:
            conn.pgconn.finish()
            raise
        return conn

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

        Raises ``Validation`` for a cursor of another backend, ``CursorExpired`` for one from the future of this outbox,
        or where rows after it have been trimmed.
        """
        return await self._subscribe(cursor, filter, results)

    async def _subscribe(
        self, cursor: StreamCursor | None, wanted: CompletionFilter | None, results: bool
    ) -> Subscription:
        selector = Selector(checked_filter(wanted), results)
        after = None if cursor is None or cursor.is_empty else _event_id(cursor)

        async def make(run: Supervisor, lease: Lease) -> Source:
            session = await run.session()
            if (selector.filter is not None or selector.results) and not session.has_core:
                raise Unavailable("subscribe_completions_filtered", session.core_problem)
            if after is None:
                return run.open_source(session, None, selector, lease, None)
            start, since_ms = await (self._position(session.pool, after) if resuming is None else resuming)
            return run.open_source(session, start, selector, lease, since_ms)

        async with driver_errors(self._shown, "subscribe"), self._resuming(after) as resuming:
            return Subscription(await self._open_stream("subscribe", make), "postgres")

    @asynccontextmanager
    async def _resuming(self, after: int | None) -> AsyncGenerator[Awaitable[tuple[int, int | None]] | None]:
        """Where to resume, asked while the run starts: either opens 256 partitions first, which takes a tenth of a second.

        None where there is nothing to ask, or a run, which may be mending its connection and is to be waited for.
        """
        if after is None or self._run is not None:
            yield None
            return

        async def query() -> tuple[int, int | None]:
            async with self._querying("subscribe", lingers=False) as pool:
                return await self._position(pool, after)

        querying = running_loop("subscribe").create_task(query(), name="ffcompletion-postgres-position")
        try:
            yield querying
        finally:
            # Where it has been answered not even for a moment: a stream is on its way out, which nobody would close.
            if not querying.done():
                querying.cancel()
                await asyncio.wait({querying})
            if not querying.cancelled():
                # Nobody may have come to ask for it: starting failed, and says why.
                querying.exception()

    async def _position(self, pool: Pool, after: int) -> tuple[int, int | None]:
        """Where to resume, and since when ends without a row are wanted."""
        queries, interval_s = self._settings.queries, self._settings.reconcile_interval_s
        start = await self._execute(pool, lambda conn: resume_after(conn, queries, after))
        if not interval_s:
            return start, None
        return start, await self._execute(pool, lambda conn: silent_since(conn, queries, after, interval_s))

    def history_at(self, cursor: StreamCursor, /) -> str:
        """What to keep beside this cursor, to know its history again. Empty while no stream is open."""
        run, event_id = self._run, cursor.event_id
        return (
            "" if run is None or event_id is None else str(Mark.of(run.identity, run.reader.history.witness(event_id)))
        )

    async def check_history(self, cursor: StreamCursor, history: str, /) -> None:
        """Raise ``CursorExpired`` where the outbox is not the one that ``history`` was kept of: emptied, restored."""
        if cursor.event_id is not None:
            await self._question("subscribe", lambda conn: check_history(conn, self._settings.queries, history))

    # ── querying ─────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The executions as core record and outbox say, in one query; None where neither knows it."""
        ids = [ExecutionId(execution_id) for execution_id in execution_ids]
        return await self._question(
            "describe_execution",
            lambda conn: describe(conn, self._settings.queries, ids, result=result, prepare=False),
        )

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The flow's members as the core records say; empty where there is none. Raises ``Validation``."""
        flow = FlowId(flow_id)
        return await self._question("flow_members", lambda conn: members(conn, self._settings.queries, flow))

    async def ping(self, /) -> float:
        """Ask the server for a sign of life, through the pool; the seconds that took, connecting included."""
        began = time.monotonic()
        await self._question("ping", _sign_of_life)
        return time.monotonic() - began

    async def _question(self, op: str, question: Callable[[Connection], Awaitable[_T]]) -> _T:
        async with driver_errors(self._shown, op), self._querying(op) as pool:
            try:
                return await self._execute(pool, question)
            except psycopg.Error as exc:
                if self._run is not None and is_refusal(exc):
                    # Streams are open, so these credentials were good: a password that is being rotated may pass.
                    raise Transport(self._shown, first_line(exc)) from exc
                raise

    async def _execute(self, pool: Pool, question: Callable[[Connection], Awaitable[_T]]) -> _T:
        """The answer. A question changes nothing: one that meets a connection gone stale is asked once more."""
        wait_s = self._setup_timeout_s * 0.8
        async with pool.connection(timeout=wait_s) as conn:
            try:
                with deadline(conn, self._settings.read_timeout_s):
                    return await question(conn)
            except psycopg.Error as exc:
                if not conn.broken or not may_pass(exc):
                    raise
        # The idle ones are as old.
        await pool.drain()
        async with pool.connection(timeout=wait_s) as conn:
            with deadline(conn, self._settings.read_timeout_s):
                return await question(conn)

    # ── looking at it ────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        counters, run = self._counters, self._run
        reader = None if run is None else run.reader
        gaps = () if reader is None else reader.tracker.gaps
        return BackendStats(
            state=self._connection.state,
            streams=self._streams,
            received=counters.received + (0 if reader is None else reader.received),
            malformed=counters.malformed + (0 if reader is None else reader.malformed),
            reconnects=self._connection.reconnects,
            gaps=counters.interruptions,
            reconciled=counters.reconciled + (0 if run is None or run.reconciler is None else run.reconciler.found),
            held=0 if reader is None else reader.tracker.held,
            waiting=0 if reader is None else reader.waiting,
            held_since_s=time.monotonic() - min(gap.since for gap in gaps) if gaps else 0.0,
        )

    @override
    def __repr__(self) -> str:
        return f"<PostgresBackend {self._shown}, {self._connection.state.value}, {self._streams} streams>"


async def _sign_of_life(conn: Connection) -> None:
    await conn.execute("SELECT 1", prepare=False)


def _event_id(cursor: StreamCursor) -> int:
    if cursor.is_beginning:
        return 0
    event_id = cursor.event_id
    if event_id is None:
        raise Validation("cursor", "it belongs to another backend; Postgres cursors begin with 0x02")
    return event_id


if TYPE_CHECKING:
    _: type[ResumableBackend] = PostgresBackend
