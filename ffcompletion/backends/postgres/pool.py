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
from contextvars import Context
from typing import Protocol, final

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from ffcompletion.backends.postgres.connection import Connection, abort_reads
from ffcompletion.backends.postgres.errors import PoolBusy, PoolOver

__all__ = ["OwnPool", "Pool"]


class Pool(Protocol):
    """Where connections come from. All are in autocommit, speak UTF8, and prepare only what asks for it."""

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """A connection, to be given back with ``putconn``. Raises driver errors, ``PoolBusy`` after the time-out."""
        ...

    async def putconn(self, conn: Connection, /) -> None:
        """Give it back, in whatever state."""
        ...

    def connection(self, timeout: float, *, results: bool = False) -> AbstractAsyncContextManager[Connection]:
        """A connection for a block; for ``results``, which may take long, not the last one that there is."""
        ...

    async def reserve(self, limit_s: float) -> Connection:
        """One to keep for long, whose statements end after so many seconds. Raises as ``getconn`` does."""
        ...

    def discard(self, conn: Connection, /) -> None:
        """What was reserved is given up, in whatever state, without a turn of the loop."""
        ...

    async def drain(self) -> None:
        """What is idle is not to be used again."""
        ...

    async def aclose(self) -> None:
        """Release everything."""
        ...

    def abort(self) -> None:
        """The same at once, also where the loop is closed."""
        ...


@final
class OwnPool:
    """At most ``size`` connections; an idle one is closed after ``idle_s`` seconds, but for the one used last.

    That one is kept: on it is planned what a stream's lookups ask, which costs more than the question over 256 partitions.

    Mutable state: who may take one (``_slots``), what lies idle and since when, what is out, and what is kept for long.
    """

    def __init__(
        self, connect: Callable[[float], Awaitable[Connection]], size: int, idle_s: float, limit_s: float
    ) -> None:
        """``connect``: makes one whose statements end after so many seconds; ``limit_s``: how many that is."""
        self._connect = connect
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._size = size
        self._idle_s = idle_s
        self._slots = asyncio.Semaphore(size)
        self._slots_for_results = asyncio.Semaphore(max(1, size - 1))
        self._idle: list[tuple[float, Connection]] = []
        self._out: set[Connection] = set()
        self._reserved: set[Connection] = set()
        self._limits: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """See ``Pool``."""
        await self._take(self._slots, timeout)
        try:
            conn = self._fresh() or await self._new(self._limit_s)
        except BaseException:
            self._slots.release()
            raise
        self._out.add(conn)
        return conn

    async def _take(self, slots: asyncio.Semaphore, seconds: float) -> None:
        try:
            async with self._until_closed(seconds):
                await slots.acquire()
        except TimeoutError:
            raise PoolBusy(
                f"all {self._size} connections were busy for {seconds:g} s; raise pool_size or close streams"
            ) from None

    async def _new(self, limit_s: float) -> Connection:
        async with self._until_closed(None):
            conn = await self._connect(limit_s)
        if self._closed:
            conn.pgconn.finish()
            raise PoolOver("the backend is closed")
        return conn

    @asynccontextmanager
    async def _until_closed(self, seconds: float | None) -> AsyncGenerator[None]:
        """A wait that ends after so many seconds (``TimeoutError``), or with the pool (``PoolOver``)."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if self._closed:
                    raise PoolOver("the backend is closed")
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if self._closed and limit.expired():
                raise PoolOver("the backend is closed") from None
            raise

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
            self.discard(conn)
            return
        self._out.remove(conn)
        self._slots.release()
        if self._closed or conn.closed or conn.pgconn.transaction_status != TransactionStatus.IDLE:
            conn.pgconn.finish()
            return
        self._idle.append((time.monotonic(), conn))
        self._schedule()

    @asynccontextmanager
    async def connection(self, timeout: float, *, results: bool = False) -> AsyncGenerator[Connection]:  # noqa: ASYNC109  # the same
        """See ``Pool``."""
        if results:
            await self._take(self._slots_for_results, timeout)
        try:
            conn = await self.getconn(timeout)
            try:
                yield conn
            except psycopg.Error:
                # It may be the connection's own: settings that its role has no longer, say. The next try is on another.
                conn.pgconn.finish()
                raise
            finally:
                self.put_back(conn)
        finally:
            if results:
                self._slots_for_results.release()

    async def drain(self) -> None:
        """See ``Pool``."""
        self.forget_idle()

    def forget_idle(self) -> None:
        """Close what is idle now."""
        idle, self._idle = self._idle, []
        for _, conn in idle:
            conn.pgconn.finish()

    async def reserve(self, limit_s: float) -> Connection:
        """See ``Pool``: beside the others, not one of their number."""
        conn = await self._new(limit_s)
        self._reserved.add(conn)
        return conn

    def discard(self, conn: Connection, /) -> None:
        """See ``Pool``. No task may be waiting on it."""
        self._reserved.discard(conn)
        conn.pgconn.finish()

    async def aclose(self) -> None:
        """See ``Pool``. Waits for nobody."""
        self.abort()

    def abort(self) -> None:
        """Close what is idle, and make what is in use fail at once."""
        self._closed = True
        self.forget_idle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._loop.is_closed():
            for limit in self._limits:
                # One that has expired already ends by itself.
                with contextlib.suppress(RuntimeError):
                    limit.reschedule(self._loop.time())
        for conn in (*self._out, *self._reserved):
            if self._loop.is_closed():
                conn.pgconn.finish()
            else:
                # Whoever uses it still waits on its socket, and finishes it when giving it back.
                abort_reads(conn)

    def _schedule(self) -> None:
        if self._timer is None and len(self._idle) > 1:
            wait_s = max(0.0, self._idle[0][0] + self._idle_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._reap, context=Context())

    def _reap(self) -> None:
        self._timer = None
        too_old = time.monotonic() - self._idle_s
        stale = [(since, conn) for since, conn in self._idle[:-1] if since <= too_old]
        self._idle = self._idle[len(stale) :]
        for _, conn in stale:
            conn.pgconn.finish()
        self._schedule()
