"""When to read: one task per backend that wakes on notifications, polls as a safety net, and reconnects for ever.

It drains all notifications, then has the reader read once; an echo keeps the connection honest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, final

import psycopg

from ffcompletion.backends.postgres.announced import Announced, Hints
from ffcompletion.backends.postgres.connection import Target
from ffcompletion.backends.postgres.errors import translated
from ffcompletion.backends.postgres.history import Identity
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.reader import Reader, log
from ffcompletion.backends.postgres.session import Session
from ffcompletion.contract.errors import EngineError, Transport, Unavailable
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.hub import Hub
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.watchdog import Watchdog

__all__ = ["Live"]

_ECHO_EVERY_S: Final = 3.0
_ECHO_DEADLINE_S: Final = 1.5
# So many echoes in a row make a polling reader believe that it hears after all.
_BELIEVE_AFTER: Final = 2
_STOP_S: Final = 0.5
# From so many rows in one read on, the next one waits for this many times as long as the last one took.
_BURST: Final = 32
_GATHER: Final = 4.0
_GATHER_S: Final = 0.025
# How long a read may take before the connection counts as dead: first this, because it usually takes a millisecond,
# then twice as long each time, up to `read_timeout`, because a server may really be that slow.
_PATIENCE_S: Final = 3.0


@final
class Live:
    """Owns the session, the reader and the task that drives it."""

    def __init__(
        self,
        target: Target,
        queries: Queries,
        hub: Hub,
        link: Link,
        on_rewind: Callable[[int], None],
        *,
        poll_interval_s: float,
        read_timeout_s: float,
    ) -> None:
        self._target = target
        self._queries = queries
        self._link = link
        self._poll_s = poll_interval_s
        self._read_timeout_s = read_timeout_s
        self._patience_s = min(_PATIENCE_S, read_timeout_s)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._announced = Announced()
        # Everything is to be looked at, whatever is announced; and when that is due in any case.
        self._look = True
        self._poll_at = 0.0
        self._changed = Signal()
        self._last_error: BaseException | None = None
        self._identity = Identity()
        self._deciding: asyncio.Task[None] | None = None
        self._echoes_while_polling = 0
        self._watchdog = Watchdog(0.0, interval_s=_ECHO_EVERY_S, deadline_s=_ECHO_DEADLINE_S)
        self.reader: Reader = Reader(queries, hub, on_rewind)

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────

    async def start(self, pool: Pool) -> None:
        """Connect, find the position to start from, and begin to read. Raises driver errors and ``EngineError``."""
        self._stopping = False
        self._pool = pool
        self._link.connecting()
        try:
            session = await self._open()
            await self.reader.find_start(session)
            self._identity = session.identity
            heard = await session.first_echo(_ECHO_DEADLINE_S)
            if not heard and not self._poll_s:
                raise Unavailable("subscribe", f"{session.deaf_because}; and polling is turned off (poll_interval=0)")
        except BaseException:
            await self._close_session()
            self._link.idle()
            raise
        self._arrive(session)
        lane = self.reader.lane
        self._lookups = session.lookups()
        self._deciding = asyncio.create_task(
            lane.run(pool, lambda: self._lookups, self._read_timeout_s), name="ffcompletion-postgres-lookups"
        )
        self._task = asyncio.create_task(self._run(session), name="ffcompletion-postgres-reader")

    async def stop(self) -> None:
        """Release everything on the server. Within about a second, also when it is mute."""
        self._stopping = True
        self._wake.set()
        self._changed.wake()
        deciding, self._deciding = self._deciding, None
        if deciding is not None:
            await self.reader.lane.stop(deciding, _STOP_S)
        task, self._task = self._task, None
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=_STOP_S)
            if not done:
                if self._session is not None:
                    self._session.shut_down()
                task.cancel()
                await asyncio.wait({task}, timeout=_STOP_S)
        await self._close_session()
        self._announced.clear()

    async def flowing(self, seconds: float) -> None:
        """Wait until completions flow. Raises ``Transport`` with the last fault as its cause after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not self._link.flowing:
                    await self._changed.wait()
        except TimeoutError:
            fault = self._last_error
            why = f"{translated(fault, self._target.shown, 'reading') if isinstance(fault, psycopg.Error) else fault}"
            raise Transport(self._target.shown, f"the connection is being mended; try again ({why})") from fault

    @property
    def session(self) -> Session | None:
        """The session in use, if connected."""
        return self._session

    async def _open(self) -> Session:
        session = self._session = Session(self._target, self._pool, self._queries, self._patience_s)
        await session.open(self._on_announce, self._on_echo, self._wake.set)
        self._announced.clear()
        self._look = True
        return session

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _arrive(self, session: Session) -> None:
        self._echoes_while_polling = 0
        self._watchdog.reset(time.monotonic())
        if session.deaf_because:
            self._link.polling(f"{session.deaf_because}; polling every {self._poll_s:g} s")
        else:
            self._link.live()
        self._changed.wake()

    # ── wake-ups, called by the listener ─────────────────────────────────────────────────────────────────────────

    def _on_announce(self, payload: str) -> None:
        self._announced.add(payload)
        self._wake.set()

    def _on_echo(self, nonce: str) -> None:
        if not self._watchdog.heard(nonce, time.monotonic()) or self._link.state is not BackendState.POLLING:
            return
        # The first echo was late, not lost. Through a pooler one may come by chance, but hardly two in a row.
        self._echoes_while_polling += 1
        if self._echoes_while_polling == _BELIEVE_AFTER:
            self._link.live()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, session: Session | None) -> None:
        while not self._stopping:
            try:
                if session is None:
                    session = await self._open()
                    # Names of transactions mean nothing on a server that was restarted or replaced.
                    self.reader.tracker.forget_owners()
                    self._lookups = session.lookups()
                    if session.identity != self._identity:
                        await self.reader.compare_history(session)
                        self._identity = session.identity
                    if not await self._first_echo(session):
                        return
                    self._arrive(session)
                await self._read(session)
            except Exception as exc:  # noqa: BLE001  # whatever it is, the streams must not stand still for ever
                if not isinstance(exc, psycopg.Error | OSError | EngineError):
                    log.exception("an error of our own; reconnecting as for a fault")
                self._last_error = exc
                self._patience_s = min(self._patience_s * 2, self._read_timeout_s)
                session = None
                why = translated(exc, self._target.shown, "reading") if isinstance(exc, psycopg.Error) else exc
                delay = self._link.broken(str(why) or type(exc).__name__)
                await self._close_session()
                # What broke this connection has broken the idle ones too; each would cost a time-out to find out.
                await self._pool.drain()
                if not self._stopping:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await self._wait_for_stop()

    async def _wait_for_stop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            await self._wake.wait()

    async def _first_echo(self, session: Session) -> bool:
        await session.first_echo(_ECHO_DEADLINE_S)
        return not self._stopping

    async def _read(self, session: Session) -> None:
        while not self._stopping:
            self._wake.clear()
            more = await self._drain(session)
            self._patience_s = min(_PATIENCE_S, self._read_timeout_s)
            # Every time: under a load that never pauses, gaps must come to an end as well.
            await self.reader.settle(session)
            await self._check_echo(session, time.monotonic())
            if not more:
                await self._sleep()
            if session.listener is not None and session.listener.error is not None:
                raise session.listener.error

    async def _sleep(self) -> None:
        """Until something is announced, or it is time to look without."""
        now = time.monotonic()
        look_at = min(self._poll_at, self._watchdog.next_at) if self._poll_s else self._watchdog.next_at
        if self.reader.tracker.gaps:
            look_at = min(look_at, self.reader.settle_at)
        timer = asyncio.get_running_loop().call_later(max(0.0, look_at - now), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _drain(self, session: Session) -> bool:
        """One read, if there is anything to read for. True if there is more to read at once."""
        hints, look = self._announced.take(), self._look
        started, before = time.monotonic(), self.reader.received
        due = bool(self._poll_s) and started >= self._poll_at
        if look or due:
            self._poll_at = started + self._poll_s
        more = False
        if hints or look:
            more = await self.reader.drain(session, Hints(hints.ids, look=hints.look or look))
        if due and not look and not more:
            more = await self.reader.poll(session)
        # Not before: a read that fails is to be made again.
        self._look = more
        if self.reader.history.doubtful:
            await session.identify()
            await self.reader.compare_history(session)
            self._identity = session.identity
            self._look = True
            return True
        if not more and self.reader.received - before >= _BURST:
            # A burst is under way: let it gather, so that reading does not take the server's time from writing.
            await asyncio.sleep(min(_GATHER_S, _GATHER * (time.monotonic() - started)))
            return True
        return more or bool(self._announced)

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _check_echo(self, session: Session, now: float) -> None:
        if self._watchdog.expired(now):
            if self._link.state is BackendState.LIVE:
                raise psycopg.OperationalError("the listener went silent: no echo")
            self._echoes_while_polling = 0
            self._watchdog.reset(now)
        nonce = self._watchdog.due(now)
        if nonce is not None:
            if session.in_recovery and await session.promoted():
                raise psycopg.OperationalError("the replica was promoted")
            await session.echo(nonce)
