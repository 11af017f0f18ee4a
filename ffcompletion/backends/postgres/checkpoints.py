"""``PostgresCheckpoints``: where consumers stand, in a table of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from psycopg import sql

from ffcompletion.backends.postgres.connection import Connection, Target, abandon, deadline, driver_errors
from ffcompletion.contract.checkpoint import Checkpoint, CheckpointStore
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable

__all__ = ["PostgresCheckpoints"]

_MAKE: Final = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, cursor bytea NOT NULL, backend text NOT NULL,"
    " selection text NOT NULL, saved_at timestamptz NOT NULL DEFAULT now())"
)
_LOAD: Final = sql.SQL("SELECT cursor, backend, selection FROM {} WHERE name = %s")
_SAVE: Final = sql.SQL(
    "INSERT INTO {} AS kept (name, cursor, backend, selection) VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO UPDATE"
    " SET cursor = excluded.cursor, backend = excluded.backend, selection = excluded.selection, saved_at = now()"
)


@final
class PostgresCheckpoints:
    """Checkpoints by name in one table, which is made when it is first used. Not one of the engine's tables.

    ``conninfo``: a ``postgresql://`` URL or any libpq connection string, of whichever database is to keep them.
    ``table``, ``schema``: where; the default schema is the first of ``search_path``. One connection is held between
    uses and made again when it breaks; ``timeout``: seconds that one load or save may take.

    Raises ``Validation`` for a malformed conninfo, ``Transport`` or ``Unavailable`` where the server cannot do it.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        table: str = "ffcompletion_checkpoint",
        schema: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._target = Target(conninfo, timeout)
        self._table = sql.Identifier(table) if schema is None else sql.Identifier(schema, table)
        self._timeout_s = timeout
        self._turn = asyncio.Lock()
        self._conn: Connection | None = None
        self._closed = False

    async def load(self, name: str, /) -> Checkpoint | None:
        """What was saved last under this name; None if nothing ever was."""
        async with self._connected("load a checkpoint") as conn:
            cursor = await conn.execute(_LOAD.format(self._table), (name,))
            row = await cursor.fetchone()
        if row is None:
            return None
        return Checkpoint(cursor=StreamCursor.from_bytes(row[0]), backend=row[1], selection=row[2])

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Keep this one instead, committed when it returns."""
        values = (name, checkpoint.cursor.to_bytes(), checkpoint.backend, checkpoint.selection)
        async with self._connected("save a checkpoint") as conn:
            await conn.execute(_SAVE.format(self._table), values)

    @asynccontextmanager
    async def _connected(self, op: str) -> AsyncGenerator[Connection]:
        async with self._turn, driver_errors(self._target.shown, op):
            if self._closed:
                raise Unavailable(op, "the store is closed")
            conn = self._conn
            if conn is None or conn.closed:
                async with asyncio.timeout(self._timeout_s):
                    conn = self._conn = await self._target.connect()
                with deadline(conn, self._timeout_s):
                    await self._make_table(conn)
            try:
                with deadline(conn, self._timeout_s):
                    yield conn
            except BaseException:
                # In whatever state it is, also where a save was cancelled half-way.
                self._conn = None
                abandon(conn)
                raise

    async def _make_table(self, conn: Connection) -> None:
        # Asked first, because making it needs a right that using it does not.
        cursor = await conn.execute("SELECT to_regclass(%s) IS NOT NULL", (self._table.as_string(),))
        if await cursor.fetchone() != (True,):
            await conn.execute(_MAKE.format(self._table))

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        conn, self._conn = self._conn, None
        if conn is not None:
            abandon(conn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


if TYPE_CHECKING:
    _: type[CheckpointStore] = PostgresCheckpoints
