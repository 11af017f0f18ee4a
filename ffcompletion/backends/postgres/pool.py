"""Connections for questions and for streams that catch up: ours, made when they are needed, or the caller's.

Ours are few and made on demand; whoever needs one and cannot have it is told at once why. There is no task behind
them: what is idle for a while is closed by a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, final
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from ffcompletion.backends.postgres.connection import ONLY_WHEN_ASKED, Connection, is_direct, shut_down
from ffcompletion.backends.postgres.errors import PoolBusy, first_line
from ffcompletion.contract.errors import Unavailable

__all__ = ["BorrowedPool", "OwnPool", "Pool"]


class Pool(Protocol):
    """Where connections come from. All are in autocommit, speak UTF8, and prepare only what asks for it."""

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """A connection, to be given back with ``putconn``. Raises driver errors, ``PoolBusy`` after the time-out."""
        ...

    async def putconn(self, conn: Connection, /) -> None:
        """Give it back, in whatever state."""
        ...

    def connection(self, timeout: float) -> AbstractAsyncContextManager[Connection]:
        """A connection for a block."""
        ...

    async def drain(self) -> None:
        """What is idle is not to be used again."""
        ...


@final
class OwnPool:
    """At most ``size`` connections; an idle one is closed after ``idle_s`` seconds.

    Mutable state: who may take one (``_slots``), what lies idle and since when, what is out.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int, idle_s: float) -> None:
        self._connect = connect
        self._size = size
        self._idle_s = idle_s
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []
        self._out: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """See ``Pool``."""
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolBusy(
                f"all {self._size} connections were busy for {timeout:g} s; raise pool_size or close streams"
            ) from None
        try:
            conn = self._fresh() or await self._connect()
        except BaseException:
            self._slots.release()
            raise
        if self._closed:
            self._slots.release()
            conn.pgconn.finish()
            raise psycopg.OperationalError("the backend was closed")
        self._out.add(conn)
        return conn

    def _fresh(self) -> Connection | None:
        """The idle connection used last, unless the server has hung up on it meanwhile."""
        while self._idle:
            _, conn = self._idle.pop()
            with contextlib.suppress(psycopg.Error):
                conn.pgconn.consume_input()
                if conn.pgconn.status == ConnStatus.OK:
                    return conn
            conn.pgconn.finish()
        return None

    async def putconn(self, conn: Connection, /) -> None:
        """See ``Pool``."""
        self.put_back(conn)

    def put_back(self, conn: Connection) -> None:
        """The same, without a turn of the loop."""
        if conn not in self._out:
            return
        self._out.remove(conn)
        self._slots.release()
        if self._closed or conn.closed or conn.pgconn.transaction_status != TransactionStatus.IDLE:
            conn.pgconn.finish()
            return
        self._idle.append((time.monotonic(), conn))
        self._schedule()

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncGenerator[Connection]:  # noqa: ASYNC109  # the same
        """See ``Pool``."""
        conn = await self.getconn(timeout)
        try:
            yield conn
        finally:
            self.put_back(conn)

    async def drain(self) -> None:
        """See ``Pool``."""
        self.forget_idle()

    def forget_idle(self) -> None:
        """Close what is idle now."""
        idle, self._idle = self._idle, []
        for _, conn in idle:
            conn.pgconn.finish()

    def abort(self) -> None:
        """Close what is idle, and make what is in use fail at once. Waits for nobody."""
        self._closed = True
        self.forget_idle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for conn in self._out:
            # Whoever uses it still waits on its socket, and finishes it when giving it back.
            shut_down(conn)

    def bury(self) -> None:
        """Its event loop has ended: close everything, there is nobody left to wait on it."""
        self._closed = True
        self.forget_idle()
        for conn in self._out:
            conn.pgconn.finish()

    def _schedule(self) -> None:
        if self._timer is None and self._idle:
            wait_s = max(0.0, self._idle[0][0] + self._idle_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._reap)

    def _reap(self) -> None:
        self._timer = None
        too_old = time.monotonic() - self._idle_s
        stale = [conn for since, conn in self._idle if since <= too_old]
        self._idle = [(since, conn) for since, conn in self._idle if since > too_old]
        for conn in stale:
            conn.pgconn.finish()
        self._schedule()


@final
class BorrowedPool:
    """The caller's own pool, who opens, sizes and closes it. Connections are given back as they were."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool
        self._threshold: dict[Connection, int | None] = {}
        self._direct: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """See ``Pool``. Raises ``Unavailable`` for connections that cannot be used."""
        try:
            conn = await self._pool.getconn(timeout)
        except (PoolTimeout, TooManyRequests) as exc:
            raise PoolBusy(f"{first_line(exc)}; raise the pool's max_size or close streams") from exc
        except PoolClosed as exc:
            raise Unavailable("the pool given", first_line(exc)) from exc
        try:
            _check(conn)
            direct = self._direct.get(conn)
            if direct is None:
                direct = self._direct[conn] = await is_direct(conn)
            threshold = conn.prepare_threshold
            conn.prepare_threshold = ONLY_WHEN_ASKED if direct else None
        except BaseException:
            await self._pool.putconn(conn)
            raise
        self._threshold[conn] = threshold
        return conn

    async def putconn(self, conn: Connection, /) -> None:
        """See ``Pool``."""
        if conn in self._threshold:
            conn.prepare_threshold = self._threshold.pop(conn)
            with contextlib.suppress(psycopg.Error, ValueError):
                await self._pool.putconn(conn)

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncGenerator[Connection]:  # noqa: ASYNC109  # the same
        """See ``Pool``."""
        conn = await self.getconn(timeout)
        try:
            yield conn
        finally:
            await self.putconn(conn)

    async def drain(self) -> None:
        """See ``Pool``: each idle connection is tried, and replaced where it is dead."""
        with contextlib.suppress(psycopg.Error):
            await self._pool.check()


def _check(conn: Connection) -> None:
    if not conn.autocommit:
        raise Unavailable("the pool given", "its connections must be in autocommit; kwargs={'autocommit': True}")
    encoding = conn.pgconn.parameter_status(b"client_encoding")
    if encoding != b"UTF8":
        shown = encoding.decode("ascii", "replace") if encoding else "unknown"
        raise Unavailable(
            "the pool given", f"its connections speak {shown}; kwargs={{'client_encoding': 'utf8', 'autocommit': True}}"
        )
