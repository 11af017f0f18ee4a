"""One spell of being connected: a listener, a connection to read with, and what the server said about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, LiteralString, cast, final

import psycopg

from ffcompletion.backends.postgres.connection import Connection, Listener, Target, deadline, shut_down
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import CORE, ECHO, OUTBOX, SERVER, Queries
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.contract.errors import Unavailable

__all__ = ["Session"]

_OLDEST: Final = 15
_OP: Final = "subscribe"


@final
class Session:
    """What the live reader reads through, until something breaks. Every exchange has a deadline."""

    def __init__(self, target: Target, pool: Pool, queries: Queries, patience_s: float) -> None:
        self._target = target
        self._pool = pool
        self._queries = queries
        self._timeout_s = patience_s
        self._conn: Connection | None = None
        self._echoed = asyncio.Event()
        self.listener: Listener | None = None
        self.in_recovery: bool = False
        self.pooled: bool = False
        self.timeline: str = ""
        self.has_core: bool = False
        self.deaf_because: str = ""
        self._relations: list[int] = []
        self._xmaxes: list[int] = []
        self.user: str = ""
        self.core_problem: str = ""

    async def open(
        self, on_announce: Callable[[str], None], on_echo: Callable[[str], None], on_lost: Callable[[], None]
    ) -> None:
        """Connect, LISTEN, check. Raises driver errors, and ``Unavailable`` where the server lacks something."""

        def echoed(nonce: str) -> None:
            self._echoed.set()
            on_echo(nonce)

        listening = await self._target.connect()
        listener = self.listener = Listener(listening, on_announce, echoed, on_lost)
        try:
            await listener.start(self._timeout_s)
        except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.ReadOnlySqlTransaction) as exc:
            await self._no_listener(str(exc))
        self._conn = await self._pool.getconn(self._timeout_s)
        await self._inspect()
        await self._check_rights()
        rows = await self.fetch(*self._queries.relations())
        self._relations = [row[0] for row in rows]

    async def _no_listener(self, why: str) -> None:
        listener, self.listener = self.listener, None
        self.deaf_because = why.strip().split("\n", 1)[0]
        if listener is not None:
            await listener.close()

    async def _inspect(self) -> None:
        (row,) = await self.fetch(SERVER)
        version, self.in_recovery, pid, self.user, self.timeline = cast("tuple[int, bool, int, str, str]", row)
        if version < _OLDEST * 10_000:
            raise Unavailable(_OP, f"PostgreSQL {version // 10_000} is too old; {_OLDEST} or later is needed")
        # A pooler answers with a process id of its own making.
        self.pooled = self._conn is not None and self._conn.info.backend_pid != pid

    async def _check_rights(self) -> None:
        queries = self._queries
        if queries.schema is not None:
            found = await self.fetch(queries.schema_exists(), (queries.schema,))
            if not found:
                raise Unavailable(_OP, f"there is no schema {queries.schema!r} in this database")
            if not found[0][0]:
                raise Unavailable(
                    _OP, f"no right to use the schema; GRANT USAGE ON SCHEMA {queries.schema} TO {self.user}"
                )
        text, values = queries.rights()
        (row,) = await self.fetch(text, values)
        outbox, readable, core, core_readable = cast("tuple[bool, bool, bool, bool]", row)
        if not outbox:
            where = f"in schema {queries.schema!r}" if queries.schema else "on the search_path"
            raise Unavailable(
                _OP,
                f"there is no table {OUTBOX} {where}; name the engine's schema with schema=, or, without FlowFabric,"
                " run `ffcompletion producers install URL`",
            )
        if not readable:
            raise Unavailable(_OP, f"no right to read the outbox; GRANT SELECT ON {queries.outbox_text} TO {self.user}")
        self.core_problem = (
            f"there is no table {CORE}, so filters cannot be decided"
            if not core
            else f"no right to read it; GRANT SELECT ON {queries.core_text} TO {self.user}"
            if not core_readable
            else ""
        )
        self.has_core = core and core_readable

    async def fetch(
        self, query: LiteralString | bytes, values: Sequence[object] = (), *, read: bool = False
    ) -> list[Row]:
        """All rows. ``read``: binary, and prepared where there is no pooler in between."""
        conn = self._conn
        if conn is None:
            raise psycopg.OperationalError("not connected")
        with deadline(conn, self._timeout_s):
            async with conn.cursor(binary=read) as cursor:
                await cursor.execute(query, values, prepare=read and not self.pooled)
                return cast("list[Row]", await cursor.fetchall())

    async def execute(self, query: LiteralString, values: Sequence[object] = ()) -> None:
        """Run something that returns nothing of interest."""
        conn = self._conn
        if conn is None:
            raise psycopg.OperationalError("not connected")
        with deadline(conn, self._timeout_s):
            await conn.execute(query, values, prepare=False)

    async def owners(self) -> list[str]:
        """Transactions that hold a write lock on the outbox now."""
        if self.in_recovery:
            return await self._horizons()
        rows = await self.fetch(self._queries.owners(), (self._relations,))
        return [cast("str", row[0]) for row in rows]

    async def _horizons(self) -> list[str]:
        # A replica's lock table knows no writers. Its snapshot knows which transactions of the primary are under way:
        # whoever owns an id that is missing now has ended once everything below the present xmax has.
        (row,) = await self.fetch(self._queries.horizon())
        xmin, xmax = row[0], cast("int", row[1])
        self._xmaxes = [seen for seen in self._xmaxes if seen > xmin] + ([xmax] if xmax > xmin else [])
        return [f"before {seen}" for seen in self._xmaxes]

    async def promoted(self) -> bool:
        """Whether a server that was in recovery has become a primary since."""
        rows = await self.fetch("SELECT pg_is_in_recovery()")
        return not rows[0][0]

    async def echo(self, nonce: str) -> None:
        """Send ``nonce`` to our own listener, the long way round."""
        if self.listener is not None:
            await self.execute(ECHO, (self.listener.echo_channel, nonce))

    async def first_echo(self, seconds: float) -> bool:
        """Whether the listener hears anything at all. A pooler in transaction mode says yes to LISTEN and is deaf."""
        if self.listener is None:
            return False
        await self.echo("first")
        try:
            async with asyncio.timeout(seconds):
                await self._echoed.wait()
        except TimeoutError:
            self.deaf_because = "LISTEN succeeded but nothing arrives; is this a connection pooler in transaction mode?"
            return False
        return True

    async def close(self) -> None:
        """Give everything back, without waiting for the server."""
        listener, self.listener = self.listener, None
        conn, self._conn = self._conn, None
        if listener is not None:
            await listener.close()
        if conn is not None:
            await self._pool.putconn(conn)

    def shut_down(self) -> None:
        """Make whatever waits for the server fail at once, in its own task."""
        if self._conn is not None:
            shut_down(self._conn)
