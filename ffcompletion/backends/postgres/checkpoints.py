"""``PostgresCheckpoints``: where consumers stand, in a table of our own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar, final

import psycopg
from typing_extensions import override

from ffcompletion.backends.postgres import checkpoint_queries as queries
from ffcompletion.backends.postgres.connection import Connection, Target, abort, abort_reads, deadline, limit, limited
from ffcompletion.backends.postgres.errors import driver_errors, may_pass
from ffcompletion.backends.postgres.names import checked, in_statement, quoted
from ffcompletion.contract.checkpoint import Checkpoint, LeasingStore, StoredCheckpoint
from ffcompletion.contract.closing import AsyncClosing, Closing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_seconds
from ffcompletion.delivery.credentials import Password
from ffcompletion.foreign.logs import logger

__all__ = ["PostgresCheckpoints"]

_log: Final = logger("ffcompletion.postgres")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds between looks at a lock that another holds.
_LEASE_S: Final = 0.5
_T = TypeVar("_T")


@final
class PostgresCheckpoints(AsyncClosing, Closing):
    """Checkpoints by name in one table, which is made when it is first used. Not one of the engine's tables.

    ``conninfo``: a ``postgresql://`` URL or any libpq connection string, of whichever database is to keep them.
    ``table``, ``schema``: where; the default schema is the first of ``search_path``. One connection is held between
    uses and made again when it breaks; ``timeout``: seconds that one load or save may take. ``password``: instead of
    one in the conninfo; a callable is asked at each connect.

    Raises ``Validation`` for a malformed conninfo, ``Transport`` or ``Unavailable`` where the server cannot do it.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        table: str = "ffcompletion_checkpoint",
        schema: str | None = None,
        timeout: float = 10.0,
        password: Password | None = None,
    ) -> None:
        self._timeout_s = check_seconds("timeout", timeout, above_zero=True)
        self._target = Target(conninfo, self._timeout_s, password)
        names = (table,) if schema is None else (checked("schema", schema), checked("table", table))
        self._table = in_statement(*names)
        self._shown_table = quoted(*names)
        self._turn = asyncio.Lock()
        self._handing = threading.Lock()
        self._conn: Connection | None = None
        self._in_use = False
        self._direct = True
        self._closed = False
        # Whether it was told that rows may be hidden from us.
        self._hidden = False
        # Names that are ours alone, as long as the connection holds.
        self._leases: set[str] = set()
        # Those that another took while there was no connection.
        self._lost: set[str] = set()

    async def acquire(self, name: str, /, *, wait: bool) -> None:
        """Take an advisory lock of the connection, which the server gives up with it, however that ends: at once with its
        process, within half a minute where its machine or the network is gone.

        Where another has it: wait, or raise ``Unavailable``. A connection that breaks is made again and takes the lock
        again; where another was faster, loading and saving under this name raise ``Unavailable`` until it is released.
        Locks need a session of their own: not through a pooler in transaction mode.
        """

        async def acquire(conn: Connection) -> bool:
            # The lock is the session's, which may take it twice; this store's consumers are told apart here.
            if name in self._leases or not await self._locked(conn, name):
                return False
            self._leases.add(name)
            return True

        while not await self._connected("lease a checkpoint", acquire):
            if not wait:
                raise self._leased(name)
            await asyncio.sleep(_LEASE_S)

    async def release(self, name: str, /) -> None:
        """Give it up; where the server cannot be asked, with the connection. Idempotent."""
        if name not in self._leases:
            return
        self._leases.discard(name)
        if name in self._lost:
            self._lost.discard(name)
            return

        async def release(conn: Connection) -> None:
            await conn.execute(queries.UNLOCK, (self._shown_table, name), prepare=False)

        async with self._turn:
            if self._closed or self._conn is None or self._conn.closed:
                return
            # A failure closes the connection, and whoever has an error of its own to raise is not to be held up.
            with contextlib.suppress(psycopg.Error, OSError, Unavailable):
                await self._attempt("give up a lease", release)

    async def _locked(self, conn: Connection, name: str) -> bool:
        cursor = await conn.execute(queries.LOCK, (self._shown_table, name), prepare=False)
        row = await cursor.fetchone()
        return row is not None and row[0] is True

    def _leased(self, name: str) -> Unavailable:
        return Unavailable("lease", f"another consumer runs {name!r} with {self._shown_table}")

    async def load(self, name: str, /) -> Checkpoint | None:
        """What was saved last under this name; None if nothing ever was."""

        async def load(conn: Connection) -> tuple[bytes, str, str] | None:
            if name in self._lost:
                return None
            cursor = await conn.execute(queries.LOAD.format(self._table), (name,), prepare=False)
            return await cursor.fetchone()

        row = await self._connected("load a checkpoint", load)
        self._check_lease(name)
        if row is None:
            return None
        return Checkpoint(cursor=StreamCursor.from_bytes(row[0]), backend=row[1], selection=row[2])

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Keep this one instead, committed when it returns."""
        values = (name, checkpoint.cursor.to_bytes(), checkpoint.backend, checkpoint.selection)

        async def save(conn: Connection) -> None:
            if name not in self._lost:
                await conn.execute(queries.SAVE.format(self._table), values, prepare=False)

        await self._connected("save a checkpoint", save)
        self._check_lease(name)

    def _check_lease(self, name: str) -> None:
        # Behind the use, which may have had to connect again; and the others that the store keeps are not concerned.
        if name in self._lost:
            raise self._leased(name)

    async def stored(self) -> Sequence[StoredCheckpoint]:
        """All of them, by name; none where there is no table, which is not made for this.

        A row whose cursor is none is left out, with a warning that names it: the others are as good as before.
        """

        async def look(conn: Connection) -> list[tuple[str, bytes, str, str, int]]:
            if not await self._exists(conn):
                return []
            return await (await conn.execute(queries.ALL.format(self._table), (), prepare=False)).fetchall()

        found: list[StoredCheckpoint] = []
        for name, data, backend, selection, saved_us in await self._alone("list checkpoints", look):
            try:
                cursor = StreamCursor.from_bytes(data)
            except Validation as exc:
                _log.warning("the checkpoint %r in %s is damaged (%s)", name, self._shown_table, exc.detail)
                continue
            kept = Checkpoint(cursor=cursor, backend=backend, selection=selection)
            found.append(
                StoredCheckpoint(name=name, checkpoint=kept, saved_at=_EPOCH + timedelta(microseconds=saved_us))
            )
        return found

    async def forget(self, name: str, /) -> bool:
        """Forget this one: whoever uses the name next begins where ``start`` says. False if there is none.

        Raises ``Unavailable`` where a consumer has leased the name.
        """

        async def remove(conn: Connection) -> bool:
            if not await self._exists(conn):
                return False
            if not await self._locked(conn, name):
                raise self._leased(name)
            return (await conn.execute(queries.REMOVE.format(self._table), (name,), prepare=False)).rowcount > 0

        return await self._alone("remove a checkpoint", remove)

    async def _alone(self, op: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """On a connection of its own, which takes its locks with it; nothing is made."""
        async with driver_errors(self._target.shown, op):
            async with asyncio.timeout(self._timeout_s):
                conn = await self._target.connect()
            try:
                with deadline(conn, self._timeout_s):
                    return await work(conn)
            finally:
                conn.pgconn.finish()

    async def _connected(self, op: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Loading and saving change nothing when done twice: what meets a connection gone stale is done once more."""
        running_loop(op)
        async with self._turn, driver_errors(self._target.shown, op):
            stale = self._conn is not None
            try:
                return await self._attempt(op, work)
            except psycopg.Error as exc:
                if not stale or self._conn is not None or not may_pass(exc):
                    raise
            return await self._attempt(op, work)

    async def _attempt(self, op: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        conn, sound = self._take(op), False
        try:
            if conn is None or conn.closed:
                async with asyncio.timeout(self._timeout_s):
                    conn = await self._target.connect()
                with deadline(conn, self._timeout_s):
                    self._direct = await limit(conn, self._timeout_s)
                    await self._make_table(conn)
                    # One that was lost stays it: its position may be behind that of whoever had it meanwhile.
                    for name in self._leases - self._lost:
                        if not await self._locked(conn, name):
                            self._lost.add(name)
                self._keep(op, conn)
            # What is given up must not wait for a lock at the server, and be stored over what was saved after it.
            own = contextlib.nullcontext() if self._direct else limited(conn, self._timeout_s)
            with deadline(conn, self._timeout_s):
                async with own:
                    answer = await work(conn)
            sound = True
            return answer
        finally:
            self._put_back(conn, sound=sound)

    # `close` may be called on another thread, at any of these moments: the one or the other gives the connection up.

    def _take(self, op: str) -> Connection | None:
        with self._handing:
            if self._closed:
                raise Unavailable(op, "the store is closed")
            self._in_use = True
            return self._conn

    def _keep(self, op: str, conn: Connection) -> None:
        with self._handing:
            if self._closed:
                raise Unavailable(op, "the store is closed")
            self._conn = conn

    def _put_back(self, conn: Connection | None, *, sound: bool) -> None:
        with self._handing:
            self._in_use = False
            sound = sound and not self._closed
            self._conn = conn if sound else None
        if conn is not None and not sound:
            # In whatever state it is, also where a save was cancelled half-way.
            abort(conn)

    async def _make_table(self, conn: Connection) -> None:
        # Asked first, because making it needs a right that using it does not.
        if await self._exists(conn):
            return
        try:
            await conn.execute(queries.MAKE.format(self._table), (), prepare=False)
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject):
            # "IF NOT EXISTS" does not see one that is being made by another at this moment.
            if not await self._exists(conn):
                raise

    async def _exists(self, conn: Connection) -> bool:
        cursor = await conn.execute(queries.HIDES, (self._shown_table,), prepare=False)
        row = await cursor.fetchone()
        if row == (True,) and not self._hidden:
            self._hidden = True
            _log.warning(
                "row-level security is in force for our role on %s: a position that no policy admits counts as none",
                self._shown_table,
            )
        return row is not None

    @override
    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        self.close()

    @override
    def close(self) -> None:
        """The same, without waiting: for code that blocks, which uses the store in ``with``."""
        with self._handing:
            self._closed = True
            (conn, self._conn), in_use = (self._conn, None), self._in_use
        if conn is None:
            return
        if in_use:
            # Whoever uses it still waits on its socket, and gives it up.
            abort_reads(conn)
        else:
            abort(conn)


if TYPE_CHECKING:
    _: type[LeasingStore] = PostgresCheckpoints
