"""One spell of being connected: a listener, a connection to read with, and what the server said about itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, LiteralString, Self, cast, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.connection import Connection, Listener, Target, abort_reads, deadline, is_direct
from ffcompletion.backends.postgres.errors import INSTALL, LastWords, first_line
from ffcompletion.backends.postgres.fetching import fetch_outbox
from ffcompletion.backends.postgres.history import Identity, Issue
from ffcompletion.backends.postgres.holders import HOLDERS, Holder
from ffcompletion.backends.postgres.horizons import HORIZON, Horizons, next_number
from ffcompletion.backends.postgres.inbox import Inbox
from ffcompletion.backends.postgres.lookups import Lookups
from ffcompletion.backends.postgres.names import quoted
from ffcompletion.backends.postgres.numbering import Numbering, numbered_here
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import CORE, ECHO, OUTBOX, SERVER, Queries, Query
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.contract.errors import Unavailable

__all__ = ["QUEUE_FULL", "Session"]

QUEUE_FULL: Final = "the server's queue of notifications is full: somebody listens in a transaction that does not end"

_OLDEST: Final = 15
_OP: Final = "subscribe"
# Plain and partitioned.
_TABLES: Final = ("r", "p")
# How often two connections are compared to tell whether a pooler gives each statement another server session.
_COMPARED: Final = 3


@final
class Session:
    """What the outbox is read through, until something breaks. Every exchange has a deadline.

    Made whole by ``open``, ended by ``aclose`` or ``abort``; never opened again.
    """

    def __init__(self, pool: Pool, queries: Queries, conn: Connection, inbox: Inbox, patience_s: float) -> None:
        self.pool: Final = pool
        self._queries = queries
        self._numbering = Numbering(queries)
        self._numbered_by = 0
        self._timeout_s = patience_s
        self._conn = conn
        self._last_words = LastWords(conn)
        self._relations: list[int] = []
        self._horizons = Horizons()
        self._core_plain = False
        self._user = ""
        self.inbox: Final = inbox
        self.listener: Listener | None = None
        self.in_recovery: bool = False
        """This is a replica."""
        self.pooled: bool = False
        self.tuned: bool = False
        """Connections of this pool use neither parallel workers nor JIT."""
        self.plain: bool = False
        """The outbox is one table, not partitioned."""
        self.identity: Identity = Identity()
        self.has_core: bool = False
        self.core_problem: str = ""
        self.polling_reason: str = ""
        """Why nothing is heard, where nothing is: then completions are polled."""
        self.restricted: Sequence[str] = ()
        """Tables whose rows a policy may hide from us."""

    @classmethod
    async def open(cls, target: Target, pool: Pool, queries: Queries, patience_s: float) -> Self:
        """Connect, LISTEN, check. Raises driver errors, and ``Unavailable`` where the server lacks something."""
        conn = await pool.reserve(patience_s)
        session = cls(pool, queries, conn, Inbox(), patience_s)
        try:
            await session._listen(target)
            await session._inspect()
            await session._check_rights()
            await session._check_numbering()
            await session.identify()
        except BaseException:
            await session.aclose()
            raise
        return session

    async def _listen(self, target: Target) -> None:
        listening = await target.connect()
        listener = self.listener = Listener(listening, self.inbox)
        with deadline(self._conn, self._timeout_s), deadline(listening, self._timeout_s):
            # A pooler answers with a process id of its own making.
            self.pooled = not await is_direct(self._conn)
            if self.pooled and await _is_shared(listening, self._conn):
                # LISTEN would stay behind in a session that is somebody else's the next moment.
                await self._no_listener("a connection pooler in transaction mode is in between: LISTEN hears nothing")
                return
        try:
            await listener.start(self._timeout_s, pooled=self.pooled)
        except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.ReadOnlySqlTransaction) as exc:
            await self._no_listener(first_line(exc))

    async def _no_listener(self, why: str) -> None:
        listener, self.listener = self.listener, None
        self.polling_reason = why
        if listener is not None:
            await listener.aclose()

    async def _inspect(self) -> None:
        (row,) = await self.fetch(SERVER)
        facts = cast("tuple[int, bool, int, str, str, bool, int, str]", row)
        version, self.in_recovery, _, self._user, timeline, self.tuned, database, system = facts
        self.identity = Identity(timeline, system, database)
        if version < _OLDEST * 10_000:
            raise Unavailable(_OP, f"PostgreSQL {version // 10_000} is too old; {_OLDEST} or later is needed")

    async def _check_rights(self) -> None:
        queries, user = self._queries, quoted(self._user)
        if queries.schema is not None:
            found = await self.fetch(queries.schema_exists(), (queries.schema,))
            if not found:
                raise Unavailable(_OP, f"there is no schema {queries.schema!r} in this database")
            if not found[0][0]:
                raise Unavailable(
                    _OP, f"no right to use the schema; GRANT USAGE ON SCHEMA {quoted(queries.schema)} TO {user}"
                )
        text, values = queries.rights()
        (row,) = await self.fetch(text, values)
        rights = cast("tuple[bool, bool, bool, bool, str | None, bool, bool, bool]", row)
        outbox, readable, core, core_readable, kind, core_partitioned, hides, core_hides = rights
        self.plain, self._core_plain = kind == "r", not core_partitioned
        if not outbox:
            where = f"in schema {queries.schema!r}" if queries.schema else "on the search_path"
            raise Unavailable(
                _OP,
                f"there is no table {OUTBOX} {where}; {INSTALL}",
            )
        if not readable:
            raise Unavailable(_OP, f"no right to read the outbox; GRANT SELECT ON {queries.outbox_text} TO {user}")
        if kind not in _TABLES:
            # Writers lock what lies behind it.
            raise Unavailable(
                _OP,
                f"{queries.outbox_text} is a view or a foreign table: who is writing is not to be seen there, and rows would"
                " be missed; read the table itself (schema=…)",
            )
        self.core_problem = (
            f"there is no table {CORE}, so filters cannot be decided"
            if not core
            else f"no right to read it; GRANT SELECT ON {queries.core_text} TO {user}"
            if not core_readable
            else ""
        )
        self.has_core = core and core_readable
        self.restricted = [name for name, hidden in ((OUTBOX, hides), (CORE, core_hides)) if hidden]

    async def restrictions(self) -> Sequence[str]:
        """``restricted``, by now."""
        await self._check_rights()
        return self.restricted

    async def _check_numbering(self) -> None:
        rows = await self.fetch(*self._numbering.steps())
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
        rows = await self.fetch(*self._numbering.numbered_by())
        self._numbered_by = numbered_here(rows[0])
        sequence = await self.sequence()
        self.identity = msgspec.structs.replace(self.identity, outbox=sequence.outbox, sequence=sequence.file)

    async def sequence(self) -> Issue:
        """What the outbox's sequence has given out."""
        ((issued, outbox, file),) = cast(
            "list[tuple[int | None, int | None, int | None]]", await self.fetch(*self._numbering.sequence())
        )
        return Issue(issued if self._numbered_by else None, outbox or 0, file or 0)

    def lookups(self) -> Lookups:
        """Questions about records, as this server wants them."""
        return Lookups(
            self._queries, prepare=not self.pooled, tuned_already=self.tuned and not self.pooled, plain=self._core_plain
        )

    async def read(self, query: Query, values: Sequence[object]) -> list[Row]:
        """Rows of the outbox, in binary, and prepared where there is no pooler in between."""
        with deadline(self._conn, self._timeout_s):
            return await fetch_outbox(self._conn, query, values, prepare=not self.pooled)

    async def read_issued(self, query: Query, values: Sequence[object]) -> tuple[list[Row], int | None]:
        """Rows by a text of ``with_issued``, and the last id that the sequence had given out; None where nothing tells."""
        *rows, last = await self.read(query, (*values, self._numbered_by))
        return rows, cast("int | None", last[0])

    async def fetch(
        self, query: LiteralString | bytes, values: Sequence[object] = (), *, read: bool = False
    ) -> list[Row]:
        """All rows. ``read``: binary, and prepared where there is no pooler in between."""
        conn = self._conn
        with deadline(conn, self._timeout_s):
            async with conn.cursor(binary=read) as cursor:
                await cursor.execute(query, values, prepare=read and not self.pooled)
                return cast("list[Row]", await cursor.fetchall())

    async def execute(self, query: LiteralString, values: Sequence[object] = ()) -> None:
        """Run something that returns nothing of interest."""
        with deadline(self._conn, self._timeout_s):
            await self._conn.execute(query, values, prepare=False)

    async def holders(self) -> list[Holder]:
        """Who holds a write lock on the outbox now, by name; empty on a replica, which does not know."""
        outbox = self.identity.outbox
        return [Holder.of(row) for row in await self.fetch(HOLDERS, (outbox, outbox))] if outbox else []

    async def owners(self) -> list[str]:
        """Transactions that hold a write lock on the outbox now."""
        if self.in_recovery:
            ((oldest, completed, age),) = cast("list[tuple[int, int, int]]", await self.fetch(HORIZON))
            return self._horizons.seen(oldest, next_number(completed, age), time.monotonic())
        rows = await self.fetch(self._queries.owners(), (self._relations,))
        return [cast("str", row[0]) for row in rows]

    async def promoted(self) -> bool:
        """Whether a server that was in recovery has become a primary since."""
        rows = await self.fetch("SELECT pg_is_in_recovery()")
        return not rows[0][0]

    async def echo(self, nonce: str) -> bool:
        """Send ``nonce`` to our own listener, the long way round. False: the server's queue of notifications is full."""
        try:
            if self.listener is not None:
                await self.execute(ECHO, (self.listener.echo_channel, nonce))
        except psycopg.errors.ProgramLimitExceeded:
            # Once it is full, nothing but this question has the server clear away what everybody has read.
            await self.fetch("SELECT pg_notification_queue_usage()")
            return False
        return True

    async def first_echo(self, seconds: float) -> bool:
        """Whether the listener hears anything at all. Some poolers say yes to LISTEN and are deaf."""
        if self.listener is None:
            return False
        if not await self.echo("first"):
            self.polling_reason = QUEUE_FULL
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.inbox.echo()
        except TimeoutError:
            if self.inbox.received and not self.pooled:
                # It is behind what others send.
                return True
            self.polling_reason = "LISTEN succeeded but nothing arrives; is there a connection pooler in between?"
            return False
        return True

    def cause(self, exc: Exception) -> Exception:
        """Why this session ended, of which this was found: what the server said of it, on either connection."""
        told = self._last_words.instead_of(exc)
        return told if self.listener is None else self.listener.last_words.instead_of(told)

    async def aclose(self) -> None:
        """Give everything back, without waiting for the server. No task may be waiting on its connections."""
        listener, self.listener = self.listener, None
        try:
            if listener is not None:
                await listener.aclose()
        finally:
            self._last_words.detach()
            await self.pool.putconn(self._conn)

    def abort(self) -> None:
        """The same at once, also where the loop is closed."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.abort()
        self.pool.discard(self._conn)

    def abort_reads(self) -> None:
        """Make whatever waits for the server fail at once, in its own task."""
        abort_reads(self._conn)


async def _is_shared(one: Connection, other: Connection) -> bool:
    """Whether these two connections to a pooler get server sessions as they come, instead of one each for good.

    A session that both were served by, or one connection served by two sessions, proves it.
    """
    mine = await _server_pid(one)
    for _ in range(_COMPARED):
        async with other.transaction():
            if await _server_pid(other) == mine or await _server_pid(one) != mine:
                return True
    return False


async def _server_pid(conn: Connection) -> int:
    row = await (await conn.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
    return 0 if row is None else int(row[0])
