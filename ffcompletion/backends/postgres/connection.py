"""Connections: where to, deadlines that a mute server cannot outlast, and the listener."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, final

import psycopg
from psycopg import AsyncConnection, sql, waiting
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from typing_extensions import override

from ffcompletion.backends.postgres.conninfo import hosts, parsed, place
from ffcompletion.backends.postgres.errors import LastWords
from ffcompletion.backends.postgres.inbox import Inbox
from ffcompletion.backends.postgres.queries import BACKEND_PID, CHANNEL, LIMIT, OWN_SETTINGS
from ffcompletion.contract.loops import shared_task
from ffcompletion.delivery.credentials import Password, ask_password, check_password

__all__ = [
    "ONLY_WHEN_ASKED",
    "UNANSWERED",
    "Connection",
    "Listener",
    "Target",
    "abort",
    "abort_reads",
    "deadline",
    "end_task",
    "is_direct",
    "limit",
    "limited",
    "make_ready",
    "server_limit",
]

Connection = AsyncConnection[tuple[Any, ...]]

# Found dead in about a minute by the kernel; the echo is faster, this is for when the process itself was asleep.
_KEEPALIVES: Final = {"keepalives": "1", "keepalives_idle": "15", "keepalives_interval": "5", "keepalives_count": "3"}


# Prepared is only what asks for it: psycopg would otherwise prepare whatever is run often, and behind a pooler the
# next session knows nothing of that, or means another statement by the same name.
ONLY_WHEN_ASKED: Final = 1 << 30
UNANSWERED: Final = "connected, but a hanging server, or a pooler without a session to spare, gave no answer"
"""What is known where not even the first question is answered."""
# How often the driver wakes up to look whether it was interrupted. Cancelling a task needs no looking, and a listener
# would wake ten times a second for nothing.
_WAIT_S: Final = 30.0


@final
class _Owned(AsyncConnection[tuple[Any, ...]]):
    """One of our own. Cancelled while the server works on something, it is given up at once: the driver would ask the
    server to cancel first, which takes 10 s where it is mute.
    """

    @override
    async def wait(
        self, gen: PQGen[RV], interval: float = _WAIT_S, timeout: float | None = None
    ) -> RV:  # as psycopg has it
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                # The server ends the statement by its own limit.
                self.pgconn.finish()
            raise


@final
class Target:
    """Where to connect to: any libpq conninfo or ``postgresql://`` URL. Its repr shows no secret."""

    __slots__ = ("_password", "conninfo", "shown")

    def __init__(self, conninfo: str, connect_timeout_s: float, password: Password | None = None) -> None:
        check_password(password)
        given = parsed(conninfo)
        defaults: dict[str, str] = dict(_KEEPALIVES)
        defaults["connect_timeout"] = str(max(2, round(connect_timeout_s)))
        defaults["application_name"] = "ffcompletion"
        if "," in hosts(given) and not os.environ.get("PGTARGETSESSIONATTRS"):
            # Of several hosts, only the primary announces. Not "read-write": a role may be read-only by default.
            defaults["target_session_attrs"] = "primary"
        extra = {key: value for key, value in defaults.items() if key not in given}
        # Whatever the role, the database or the caller would have: text is decoded as UTF-8.
        self.conninfo: Final = make_conninfo(conninfo, **extra, client_encoding="UTF8")
        """Completed. It may hold a password."""
        self._password: Final = password
        self.shown: Final = f"postgres at {place(given)}/{given.get('dbname') or os.environ.get('PGDATABASE', '')}"

    async def connect(self) -> Connection:
        """A connection in autocommit that prepares nothing. Raises driver errors, ``Transport`` without a password."""
        conninfo = self.conninfo
        if self._password is not None:
            conninfo = make_conninfo(conninfo, password=await ask_password(self._password, self.shown))
        try:
            return await _Owned.connect(conninfo, autocommit=True, prepare_threshold=None)
        except BaseException as exc:
            # A connection that was under way is closed when the driver's frames let go of it, and whoever keeps the
            # error (a task that was cancelled does) keeps them.
            traceback.clear_frames(exc.__traceback__)
            raise


async def is_direct(conn: Connection) -> bool:
    """Whether there is no pooler in between: one gives itself away by a process id of its own making."""
    row = await (await conn.execute(BACKEND_PID, prepare=False)).fetchone()
    return row is not None and row[0] == conn.info.backend_pid


async def make_ready(conn: Connection, limit_s: float) -> None:
    """For each connection of our own: settings of ours, whatever those of its role; and have the server give up a little
    before we do, so that what we gave up does not go on waiting there, for a lock, say, beside its successor.

    Not behind a pooler, where settings, like prepared statements, would end up with somebody else.
    """
    if await limit(conn, limit_s):
        conn.prepare_threshold = ONLY_WHEN_ASKED
        await conn.execute(OWN_SETTINGS, prepare=False)


async def limit(conn: Connection, seconds: float) -> bool:
    """Have the server give up a little before we do. False behind a pooler, where nothing was changed."""
    direct = await is_direct(conn)
    if direct:
        await conn.execute(LIMIT, (server_limit(seconds), False), prepare=False)
    return direct


@asynccontextmanager
async def limited(conn: Connection, seconds: float) -> AsyncGenerator[None]:
    """One transaction in which the server gives up a little before we do, and not before, also behind a pooler."""
    async with conn.transaction():
        await conn.execute(LIMIT, (server_limit(seconds), True), prepare=False)
        yield


def server_limit(seconds: float) -> str:
    """The server's time limit for a statement that has a deadline of so many seconds here."""
    return f"{max(1, round(seconds * 900))}ms"


def abort_reads(conn: Connection) -> None:
    """Make whatever waits on this connection fail at once, in its own task. The socket itself stays allocated.

    Closing it instead would free its number while a task still waits on it, and cancelling the task would have the
    driver ask the server to cancel, which takes 10 s on a mute one. It needs no further descriptor: there may be none.
    """
    with contextlib.suppress(psycopg.Error, OSError, ValueError):
        borrowed = socket.socket(fileno=conn.pgconn.socket)
        try:
            borrowed.shutdown(socket.SHUT_RDWR)
        finally:
            borrowed.detach()


def abort(conn: Connection) -> None:
    """Give a connection up without a word to the server. No task may be waiting on it."""
    abort_reads(conn)
    conn.pgconn.finish()


@contextmanager
def deadline(conn: Connection, seconds: float, unanswered: str = "no answer") -> Generator[None]:
    """What runs on ``conn`` inside fails with ``psycopg.OperationalError`` after ``seconds``, also on a mute server."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        abort_reads(conn)

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        yield
    except psycopg.Error as exc:
        if expired:
            # It was not the server who hung up.
            raise psycopg.OperationalError(f"{unanswered} within {seconds:g} s") from exc
        raise
    finally:
        timer.cancel()


@final
class Listener:
    """A connection that does nothing but LISTEN: autocommit, never from a pool, never given a query.

    Its pump iterates ``notifies()`` without ever breaking out, because whatever is in hand then is dropped.
    """

    def __init__(self, conn: Connection, inbox: Inbox) -> None:
        self._conn = conn
        self._inbox = inbox
        self.echo_channel: Final = f"ffcompletion_echo_{secrets.token_hex(8)}"
        self._pump: asyncio.Task[None] | None = None
        self.last_words: Final = LastWords(conn)

    async def start(self, seconds: float, *, pooled: bool) -> None:
        """LISTEN, and pump from then on. Raises driver errors."""
        with deadline(self._conn, seconds):
            if not pooled:
                # It is idle all its life.
                await self._conn.execute(OWN_SETTINGS, prepare=False)
            for channel in (CHANNEL, self.echo_channel):
                await self._conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)), prepare=False)
        self._pump = shared_task(self._run(), "ffcompletion-postgres-listener")

    async def _run(self) -> None:
        inbox, echo_channel = self._inbox, self.echo_channel
        try:
            async for note in self._conn.notifies():
                if note.channel == echo_channel:
                    inbox.echoed(note.payload)
                else:
                    inbox.announced(note.payload)
            inbox.ended(self.last_words.instead_of(psycopg.OperationalError("the connection was closed")))
        except Exception as exc:  # noqa: BLE001  # whatever it is: the supervisor must know that nothing is heard
            inbox.ended(self.last_words.instead_of(exc))

    async def aclose(self) -> None:
        """Stop at once, whatever the server does."""
        # The pump only ever waits for input (no query is active), so cancelling it asks nothing of the server.
        pump, self._pump = self._pump, None
        try:
            if pump is not None:
                pump.cancel()
                await asyncio.wait([pump])
        finally:
            self._conn.pgconn.finish()

    def abort(self) -> None:
        """The same without waiting, also where the loop is closed."""
        pump, self._pump = self._pump, None
        if pump is None or pump.get_loop().is_closed():
            self._conn.pgconn.finish()
        else:
            # It still waits on the socket: it is to see the end of it first.
            abort_reads(self._conn)
            pump.add_done_callback(lambda _: self._conn.pgconn.finish())
            pump.cancel()


async def end_task(task: asyncio.Task[None], conn: Connection | None, seconds: float) -> None:
    """End a task that may wait for an answer on this connection, within so many seconds, twice at the most."""
    if conn is not None:
        # It fails at once; cancelling it would have the driver ask the server to cancel.
        abort_reads(conn)
        await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    await asyncio.wait({task}, timeout=seconds)
