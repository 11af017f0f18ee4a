"""One spell of being connected: a listener, a connection to read with, and what the server said about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, LiteralString, cast, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.connection import Connection, Listener, Target, deadline, shut_down
from ffcompletion.backends.postgres.history import Identity, Issue
from ffcompletion.backends.postgres.lookups import Lookups, fetch_outbox
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import CORE, ECHO, OUTBOX, SERVER, Queries, Query
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
        self.tuned: bool = False
        """Connections of this pool use neither parallel workers nor JIT."""
        self.plain: bool = False
        """The outbox is one table, not partitioned."""
        self.identity: Identity = Identity()
        self.has_core: bool = False
        self.deaf_because: str = ""
        self._core_plain = False
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
        await self._check_numbering()
        await self.identify()

    async def _no_listener(self, why: str) -> None:
        listener, self.listener = self.listener, None
        self.deaf_because = why.strip().split("\n", 1)[0]
        if listener is not None:
            await listener.close()

    async def _inspect(self) -> None:
        (row,) = await self.fetch(SERVER)
        facts = cast("tuple[int, bool, int, str, str, bool, int, str]", row)
        version, self.in_recovery, pid, self.user, timeline, self.tuned, database, system = facts
        self.identity = Identity(timeline, system, database)
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
        rights = cast("tuple[bool, bool, bool, bool, bool, bool]", row)
        outbox, readable, core, core_readable, partitioned, core_partitioned = rights
        self.plain, self._core_plain = not partitioned, not core_partitioned
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

    async def _check_numbering(self) -> None:
        rows = await self.fetch(*self._queries.numbering())
        cache, step = cast("tuple[int, int]", rows[0]) if rows else (1, 1)
        if cache > 1 or step < 1:
            # A session would keep ids in store and use them long after higher ones, in transactions of later: nothing
            # tells then whether a missing id is still to come.
            raise Unavailable(
                _OP,
                f"the outbox's sequence was altered (CACHE {cache} INCREMENT {step}), and rows would be missed;"
                f" ALTER TABLE {self._queries.outbox_text} ALTER event_id SET CACHE 1 SET INCREMENT 1",
            )

    async def identify(self) -> None:
        """Which outbox this is, by now: it may be replaced while we are connected."""
        rows = await self.fetch(*self._queries.relations())
        self._relations = [row[0] for row in rows]
        sequence = await self.sequence()
        self.identity = msgspec.structs.replace(self.identity, outbox=sequence.outbox, sequence=sequence.file)

    async def sequence(self) -> Issue:
        """What the outbox's sequence has given out."""
        ((issued, outbox, file),) = cast(
            "list[tuple[int | None, int | None, int | None]]", await self.fetch(*self._queries.sequence())
        )
        return Issue(issued, outbox or 0, file or 0)

    def lookups(self) -> Lookups:
        """Questions about records, as this server wants them."""
        return Lookups(
            self._queries, prepare=not self.pooled, tuned_already=self.tuned and not self.pooled, plain=self._core_plain
        )

    async def read(self, query: Query, values: Sequence[object]) -> list[Row]:
        """Rows of the outbox, in binary, and prepared where there is no pooler in between."""
        conn = self._conn
        if conn is None:
            raise psycopg.OperationalError("not connected")
        with deadline(conn, self._timeout_s):
            return await fetch_outbox(conn, query, values, prepare=not self.pooled)

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
