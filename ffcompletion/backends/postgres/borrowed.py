"""The caller's own pool, as a source of connections like any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import msgspec
import psycopg
from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from ffcompletion.backends.postgres.connection import ONLY_WHEN_ASKED, Connection, deadline, is_direct, server_limit
from ffcompletion.backends.postgres.errors import PoolBusy, first_line
from ffcompletion.backends.postgres.queries import LIMIT
from ffcompletion.contract.errors import Unavailable, Validation

__all__ = ["BorrowedPool", "check_pool"]

_GIVE_BACK_S: Final = 0.3
_SWAP: Final = (
    "SELECT before, set_config('statement_timeout', %s, false)"
    " FROM (SELECT current_setting('statement_timeout') AS before OFFSET 0) s"
)


@final
class _Before(msgspec.Struct, frozen=True):
    """What is changed of a connection while it is ours."""

    prepare_threshold: int | None
    limit: str | None
    """The server's own limit, None where it is left alone."""
    row_factory: AsyncRowFactory[Any]
    cursor_factory: type[AsyncCursor[Any]]


@final
class BorrowedPool:
    """The caller's own pool, who opens, sizes and closes it. Connections are given back as they were."""

    def __init__(self, pool: AsyncConnectionPool[Any], limit_s: float) -> None:
        self._pool = pool
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._given_up: set[asyncio.Task[None]] = set()
        self._before: dict[Connection, _Before] = {}
        self._direct: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()

    async def getconn(self, timeout: float) -> Connection:  # noqa: ASYNC109  # as psycopg_pool has it
        """See ``Pool``. Raises ``Unavailable`` for connections that cannot be used."""
        return await self._lend(timeout, self._limit_s)

    async def reserve(self, limit_s: float) -> Connection:
        """See ``Pool``."""
        return await self._lend(self._limit_s, limit_s)

    async def _lend(self, timeout: float, limit_s: float) -> Connection:  # noqa: ASYNC109  # the same
        try:
            conn: Connection = await self._pool.getconn(timeout)
        except (PoolTimeout, TooManyRequests) as exc:
            raise PoolBusy(f"{first_line(exc)}; raise the pool's max_size or close streams") from exc
        except PoolClosed as exc:
            raise Unavailable("the pool given", first_line(exc)) from exc
        rows, cursors = conn.row_factory, conn.cursor_factory
        try:
            _check(conn)
            # Its owner may read rows as dicts or models, and write placeholders in another style.
            conn.row_factory, conn.cursor_factory = tuple_row, AsyncCursor
            direct = self._direct.get(conn)
            if direct is None:
                direct = self._direct[conn] = await is_direct(conn)
            limit: str | None = None
            if direct:
                cursor = await conn.execute(_SWAP, (server_limit(limit_s),), prepare=False)
                limit = ((await cursor.fetchone()) or (None,))[0]
            self._before[conn] = _Before(conn.prepare_threshold, limit, rows, cursors)
            conn.prepare_threshold = ONLY_WHEN_ASKED if direct else None
        except BaseException:
            conn.row_factory, conn.cursor_factory = rows, cursors
            await self._pool.putconn(conn)
            raise
        return conn

    async def putconn(self, conn: Connection, /) -> None:
        """See ``Pool``."""
        if conn not in self._before:
            return
        before = self._before.pop(conn)
        conn.prepare_threshold = before.prepare_threshold
        try:
            if before.limit is not None and conn.pgconn.transaction_status == TransactionStatus.IDLE:
                with contextlib.suppress(psycopg.Error), deadline(conn, _GIVE_BACK_S):
                    await conn.execute(LIMIT, (before.limit, False), prepare=False)
        finally:
            conn.row_factory, conn.cursor_factory = before.row_factory, before.cursor_factory
            with contextlib.suppress(psycopg.Error, ValueError):
                await self._pool.putconn(conn)

    def discard(self, conn: Connection, /) -> None:
        """See ``Pool``. No task may be waiting on it; the caller's pool replaces it."""
        self._before.pop(conn, None)
        conn.pgconn.finish()
        if not self._loop.is_closed():
            task = self._loop.create_task(self._give_up(conn), name="ffcompletion-postgres-discard")
            self._given_up.add(task)
            task.add_done_callback(self._given_up.discard)

    async def _give_up(self, conn: Connection) -> None:
        with contextlib.suppress(psycopg.Error, ValueError):
            await self._pool.putconn(conn)

    async def aclose(self) -> None:
        """See ``Pool``: it is the caller's."""

    def abort(self) -> None:
        """See ``Pool``: it is the caller's."""

    @asynccontextmanager
    async def connection(self, timeout: float, *, results: bool = False) -> AsyncGenerator[Connection]:  # noqa: ARG002, ASYNC109  # the same
        """See ``Pool``: how many there are is the caller's business."""
        conn = await self.getconn(timeout)
        try:
            yield conn
        finally:
            await self.putconn(conn)

    async def drain(self) -> None:
        """See ``Pool``: each idle connection is tried, and replaced where it is dead."""
        with contextlib.suppress(psycopg.Error):
            await self._pool.check()


def check_pool(pool: AsyncConnectionPool[Any] | None) -> AsyncConnectionPool[Any] | None:
    """Raises ``Validation`` for what is no such pool: one for code that blocks, another driver's."""
    if pool is None or isinstance(pool, AsyncConnectionPool):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        return pool
    raise Validation("pool", f"a psycopg_pool.AsyncConnectionPool is needed, not a {type(pool).__name__}")


def _check(conn: Connection) -> None:
    if not conn.autocommit:
        raise Unavailable("the pool given", "its connections must be in autocommit; kwargs={'autocommit': True}")
    encoding = conn.pgconn.parameter_status(b"client_encoding")
    if encoding != b"UTF8":
        shown = encoding.decode("ascii", "replace") if encoding else "unknown"
        raise Unavailable(
            "the pool given", f"its connections speak {shown}; kwargs={{'client_encoding': 'utf8', 'autocommit': True}}"
        )
