"""The run: from the first open stream on an event loop to the last. Its task wakes on notifications, polls, reconnects.

It takes all that was announced, then has the reader read once; an echo keeps the connection honest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final, Self, final
from weakref import WeakSet

import psycopg

from ffcompletion.backends.postgres.announced import Hints
from ffcompletion.backends.postgres.background import Background
from ffcompletion.backends.postgres.beneath import Beneath
from ffcompletion.backends.postgres.echoes import ECHO_DEADLINE_S, Echoes
from ffcompletion.backends.postgres.errors import kind_of, translated
from ffcompletion.backends.postgres.history import Identity
from ffcompletion.backends.postgres.options import Counters, Settings
from ffcompletion.backends.postgres.outbox import Stream
from ffcompletion.backends.postgres.pages import PageReader
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import SERVER_MS
from ffcompletion.backends.postgres.reader import Reader, log
from ffcompletion.backends.postgres.reconciler import Reconciler
from ffcompletion.backends.postgres.restrictions import Restrictions
from ffcompletion.backends.postgres.session import Session
from ffcompletion.backends.postgres.source import Source
from ffcompletion.contract.errors import EngineError, Transport, Unavailable
from ffcompletion.contract.loops import shared_task
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.tenure import Lease

__all__ = ["Supervisor"]

_CLOSE_GRACE_S: Final = 0.2
# From so many rows in one read on, the next one waits for this many times as long as the last one took.
_BURST: Final = 32
_GATHER: Final = 4.0
_GATHER_S: Final = 0.05
# A read usually takes a millisecond: after so long the connection counts as dead; after twice as long the next time, and so on.
_READ_TIMEOUT_S: Final = 3.0


@final
class Supervisor:
    """Owns the session, the reader and the task that drives it. Made whole by ``open``; ended by ``aclose`` or ``abort``."""

    def __init__(self, settings: Settings, connection: ConnectionState, counters: Counters, pool: Pool) -> None:
        self._settings = settings
        self._connection = connection
        self._counters: Counters | None = counters
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._hub = Hub[Stream]()
        self._read_timeout_s = min(_READ_TIMEOUT_S, settings.read_timeout_s)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._stopped = asyncio.Event()
        self._changed = Signal()
        self.identity: Identity = Identity()
        # Everything is to be looked at, whatever is announced; and when that is due in any case.
        self._look, self._poll_at = True, 0.0
        self._restrictions = Restrictions()
        self._echoes = Echoes(connection)
        self._sources: WeakSet[Source] = WeakSet()
        self.reader: Reader = Reader(settings.queries, self._hub, self._rewound)
        self._beneath = Beneath(self.reader, settings.queries)
        self.reconciler: Reconciler | None = None
        if settings.reconcile_interval_s:
            self.reconciler = Reconciler(settings.queries, self._open_sources, settings.reconcile_interval_s)
        self._background = Background(pool, self.reconciler, settings.read_timeout_s)

    # ── from the first stream to the last ────────────────────────────────────────────────────────────────────────

    @classmethod
    async def open(cls, settings: Settings, connection: ConnectionState, counters: Counters, pool: Pool) -> Self:
        """Connect, find the position to start from, begin to read. Raises driver errors and ``EngineError``."""
        run = cls(settings, connection, counters, pool)
        try:
            session = await run._open_session()
            await run.reader.find_start(session)
            await run._beneath.begin(session)
            run.identity = session.identity
            if run.reconciler is not None:
                run.reconciler.begin((await session.fetch(SERVER_MS))[0][0])
            if not await session.first_echo(ECHO_DEADLINE_S) and not settings.poll_interval_s:
                raise Unavailable("subscribe", f"{session.polling_reason}; and polling is turned off (poll_interval=0)")
        except BaseException:
            run.abort()
            raise
        run._connected(session)
        run._background.start(session)
        run._task = shared_task(run._run(session), "ffcompletion-postgres-reader")
        return run

    async def aclose(self) -> None:
        """Release everything on the server. Within about half a second, also when it is mute."""
        self._stop()
        await self._background.aclose()
        task = self._task
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=_CLOSE_GRACE_S)
            if not done:
                if self._session is not None:
                    # The driver answers a cancellation by asking the server, which may take long; this it sees at once.
                    self._session.abort_reads()
                task.cancel()
                await asyncio.wait({task}, timeout=_CLOSE_GRACE_S)
        if task is None:
            await self._close_session()
        self.abort()

    def abort(self) -> None:
        """The same at once, without waiting for the task. Also where the loop is closed."""
        self._stop()
        counters, self._counters = self._counters, None
        if counters is not None:
            counters.received += self.reader.received
            counters.malformed += self.reader.malformed
            counters.reconciled += 0 if self.reconciler is None else self.reconciler.found
        self._background.abort()
        task, session = self._task, self._session
        if task is None or task.done() or self._loop.is_closed():
            self._session = None
            if session is not None:
                session.abort()
        elif session is not None:
            # Its own task still waits on the socket, and closes it.
            session.abort_reads()
            task.cancel()
        else:
            task.cancel()

    def _stop(self) -> None:
        self._stopping = True
        if not self._loop.is_closed():
            self._stopped.set()
            if self._session is not None:
                self._session.inbox.changed.set()
            self._changed.wake()

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def session(self) -> Session:
        """The session, once completions flow. Its caller bounds the wait."""
        await self._changed.until(lambda: self._connection.flowing or self._stopping)
        session = self._session
        if session is None:
            raise Transport(self._settings.target.shown, "the connection is being mended; try again")
        return session

    def open_source(
        self, session: Session, after: int | None, selector: Selector, lease: Lease, since_ms: int | None
    ) -> Source:
        """One more stream, live, or reading what is stored after a position, which was reached at that time."""
        settings, pooled, beneath = self._settings, session.pooled, self._beneath
        seconds, size, lookups = settings.read_timeout_s, settings.buffer_size, session.lookups()
        pages = PageReader(self._pool, settings.queries, lookups, beneath, pooled=pooled, read_timeout_s=seconds)
        if selector.filter is None and not selector.results:
            source = Source(self.reader, self._hub, pages, selector, size, lambda _: lease.aclose(), after)
        else:
            place = self.reader.place(results=selector.results)
            self._background.decide(place)
            source = Source(place, place.hub, pages, selector, size, lambda _: lease.aclose(), after)
        if self.reconciler is not None:
            source.opened(self.reconciler.now_ms, since_ms)
            if since_ms is not None:
                self.reconciler.request()
        self._sources.add(source)
        return source

    def _open_sources(self) -> list[Source]:
        return [source for source in self._sources if not source.closed]

    def _rewound(self, high: int) -> None:
        for source in self._open_sources():
            source.rewind(high)

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _open_session(self) -> Session:
        settings = self._settings
        session = self._session = await Session.open(
            settings.target, self._pool, settings.queries, self._read_timeout_s
        )
        self._look = True
        self._restrictions.found(session.restricted, time.monotonic())
        return session

    def _connected(self, session: Session) -> None:
        self._echoes.restart(time.monotonic())
        if session.polling_reason:
            every = self._settings.poll_interval_s
            self._connection.polling(f"{session.polling_reason}; polling every {every:g} s")
        else:
            self._connection.live()
        self._changed.wake()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, session: Session | None) -> None:
        try:
            while not self._stopping:
                try:
                    if session is None:
                        session = await self._reconnect()
                    await self._read(session)
                except Exception as exc:  # noqa: BLE001  # whatever it is, the streams must not stand still for ever
                    session = None
                    await self._broken(exc)
            await self._close_session()
        finally:
            # Nobody waits on its connections any more.
            if self._session is not None:
                self._session.abort()
                self._session = None

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    async def _reconnect(self) -> Session:
        session = await self._open_session()
        # Names of transactions mean nothing on a server that was restarted or replaced.
        self.reader.tracker.forget_owners()
        self._background.lookups = session.lookups()
        if session.identity != self.identity or not await self.reader.recognised(session):
            await self.reader.compare_history(session)
            self.identity = session.identity
        if not await session.first_echo(ECHO_DEADLINE_S) and not self._settings.poll_interval_s:
            # It was promised that polling is not needed.
            raise Transport(self._settings.target.shown, f"{session.polling_reason}; and polling is turned off")
        # One that connects, and cannot read, is not live: the next attempt is to wait longer.
        await self._drain(session)
        self._connected(session)
        return session

    async def _broken(self, exc: Exception) -> None:
        """Let go of the connection, and wait as long as the backoff says."""
        if not isinstance(exc, psycopg.Error | OSError | EngineError):
            log.exception("an error of our own; reconnecting as for a fault")
        self._read_timeout_s = min(self._read_timeout_s * 2, self._settings.read_timeout_s)
        if self._counters is not None:
            self._counters.interruptions += self._connection.flowing
        session, self._session = self._session, None
        if session is not None:
            exc = session.cause(exc)
            session.abort()
        fault = translated(exc, self._settings.target.shown, "reading") if isinstance(exc, psycopg.Error) else exc
        delay = self._connection.broken(str(fault) or type(exc).__name__, fault, kind=kind_of(exc))
        # What broke this connection has broken the idle ones too; each would cost a time-out to find out.
        await self._pool.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopped.wait()

    async def _read(self, session: Session) -> None:
        while not self._stopping:
            # Cleared before looking, so that whatever comes meanwhile is seen the next time.
            session.inbox.changed.clear()
            if session.inbox.lost is not None:
                raise session.inbox.lost
            more = await self._drain(session)
            self._read_timeout_s = min(_READ_TIMEOUT_S, self._settings.read_timeout_s)
            # Every time: under a load that never pauses, gaps must come to an end as well.
            await self.reader.settle(session)
            await self._echoes.check(session, time.monotonic())
            if not more:
                await self._sleep(session)

    async def _sleep(self, session: Session) -> None:
        """Until something is announced, or it is time to look without."""
        now = time.monotonic()
        look_at = self._echoes.next_at
        if self._settings.poll_interval_s:
            look_at = min(look_at, self._poll_at)
        if self.reader.tracker.gaps:
            look_at = min(look_at, self.reader.settle_at)
        changed = session.inbox.changed
        timer = self._loop.call_later(max(0.0, look_at - now), changed.set)
        try:
            await changed.wait()
        finally:
            timer.cancel()

    async def _drain(self, session: Session) -> bool:
        """One read, if there is anything to read for. True if there is more to read at once."""
        hints, look = await self._beneath.believed(session, session.inbox.take_announced()), self._look
        started, before = time.monotonic(), self.reader.received
        due = bool(self._settings.poll_interval_s) and started >= self._poll_at
        if look or due:
            self._poll_at = started + self._settings.poll_interval_s
        more = False
        if hints or look:
            more = await self.reader.drain(session, Hints(hints.ids, look=hints.look or look))
        if due and not look and not more:
            more = await self.reader.poll(session)
            if self._restrictions.due(started):
                self._restrictions.found(await session.restrictions(), started)
        # Not before: a read that fails is to be made again.
        self._look = more
        if self.reader.history.doubtful:
            await session.identify()
            await self.reader.compare_history(session)
            self.identity = session.identity
            self._look = True
            return True
        if not more and self.reader.received - before >= _BURST:
            # A burst is under way: let it gather, so that reading does not take the server's time from writing.
            await asyncio.sleep(min(_GATHER_S, _GATHER * (time.monotonic() - started)))
            return True
        return more or session.inbox.pending or self._beneath.unfinished
