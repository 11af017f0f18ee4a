"""Connections: the listener, deadlines that a mute server cannot outlast, and the driver's errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ffcompletion.backends.postgres.queries import BACKEND_PID, CHANNEL, GENERIC_PLAN
from ffcompletion.contract.errors import EngineError, ResourceExhausted, Transport, Unavailable, Validation

__all__ = ["Connection", "Listener", "Target", "abandon", "deadline", "driver_errors", "plan_generically", "shut_down"]

Connection = AsyncConnection[tuple[Any, ...]]

# Found dead in about a minute by the kernel; the echo is faster, this is for when the process itself was asleep.
_KEEPALIVES: Final = {"keepalives": "1", "keepalives_idle": "15", "keepalives_interval": "5", "keepalives_count": "3"}


@final
class Target:
    """Where to connect to: any libpq conninfo or ``postgresql://`` URL. Its repr shows no secret."""

    __slots__ = ("conninfo", "shown")

    def __init__(self, conninfo: str, connect_timeout_s: float) -> None:
        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.Error:
            # The driver's text quotes the conninfo, password included: neither text nor cause may go on.
            raise Validation(
                "url", "not a libpq connection string; use postgresql://user@host:5432/database or key=value pairs"
            ) from None
        if not all(port.isdigit() and int(port) < 65_536 for port in str(given.get("port") or "5432").split(",")):
            raise Validation("url", "a port must be a number from 0 to 65535")
        defaults: dict[str, str] = dict(_KEEPALIVES)
        defaults["connect_timeout"] = str(max(2, round(connect_timeout_s)))
        defaults["application_name"] = "ffcompletion"
        if "," in str(given.get("host", "")) or "," in str(given.get("hostaddr", "")):
            # Of several hosts, only the primary announces.
            defaults["target_session_attrs"] = "read-write"
        self.conninfo: Final = make_conninfo(conninfo, **{k: v for k, v in defaults.items() if k not in given})
        host = given.get("host") or given.get("hostaddr") or given.get("service") or "local socket"
        self.shown: Final = f"postgres at {host}:{given.get('port') or 5432}/{given.get('dbname') or ''}"

    async def connect(self) -> Connection:
        """A connection in autocommit, for whoever asks. Raises driver errors."""
        return await AsyncConnection.connect(self.conninfo, autocommit=True)


async def plan_generically(conn: Connection) -> None:
    """For each connection of our own pool: plan once, not at every execution, over 256 partitions.

    Not behind a pooler, where the setting would end up with somebody else; it gives away its presence by answering
    with a process id of its own making.
    """
    row = await (await conn.execute(BACKEND_PID)).fetchone()
    if row is not None and row[0] == conn.info.backend_pid:
        await conn.execute(GENERIC_PLAN)


def shut_down(conn: Connection) -> None:
    """Make whatever waits on this connection fail at once, in its own task. The socket itself stays allocated.

    Closing it instead would free its number while a task still waits on it, and cancelling the task would have the
    driver ask the server to cancel, which takes 10 s on a mute one.
    """
    with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(conn.pgconn.socket)) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def abandon(conn: Connection) -> None:
    """Give a connection up without a word to the server."""
    shut_down(conn)
    conn.pgconn.finish()


@contextmanager
def deadline(conn: Connection, seconds: float) -> Generator[None]:
    """What runs on ``conn`` inside fails with ``psycopg.OperationalError`` after ``seconds``, also on a mute server."""
    timer = asyncio.get_running_loop().call_later(seconds, shut_down, conn)
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def driver_errors(shown: str, op: str) -> AsyncGenerator[None]:
    """Whatever the driver raises inside comes out as one of our errors, with the driver's as its cause."""
    try:
        yield
    except psycopg.Error as exc:
        raise translated(exc, shown, op) from exc
    except (OSError, TimeoutError) as exc:
        raise Transport(shown, _first_line(exc) or "timed out") from exc


def translated(exc: psycopg.Error, shown: str, op: str) -> EngineError:
    """The driver's error in our words."""
    text = _first_line(exc)
    if type(exc).__name__ in ("PoolTimeout", "TooManyRequests"):
        return ResourceExhausted("connection pool", f"{text}; raise the pool's max_size or close streams")
    if isinstance(exc, psycopg.errors.InsufficientPrivilege):
        return Unavailable(op, text)
    state = exc.sqlstate or ""
    if state == "53300":
        return ResourceExhausted(shown, text)
    if state[:2] in ("28", "3D") or "authentication failed" in text or "does not exist" in text:
        return Unavailable(op, text)
    return Transport(shown, text or type(exc).__name__)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n", 1)[0]


@final
class Listener:
    """A connection that does nothing but LISTEN: autocommit, never from a pool, never given a query.

    Its pump iterates ``notifies()`` without ever breaking out, because whatever is in hand then is dropped.
    """

    def __init__(
        self,
        conn: Connection,
        on_announce: Callable[[str], None],
        on_echo: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._on_announce = on_announce
        self._on_echo = on_echo
        self._on_lost = on_lost
        self.echo_channel: Final = f"ffcompletion_echo_{secrets.token_hex(8)}"
        self.error: BaseException | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self, seconds: float) -> None:
        """LISTEN, and pump from then on. Raises driver errors."""
        with deadline(self._conn, seconds):
            for channel in (CHANNEL, self.echo_channel):
                await self._conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._pump = asyncio.create_task(self._run(), name="ffcompletion-postgres-listener")

    async def _run(self) -> None:
        announce, echo_channel = self._on_announce, self.echo_channel
        try:
            async for note in self._conn.notifies():
                if note.channel == echo_channel:
                    self._on_echo(note.payload)
                else:
                    announce(note.payload)
            self.error = psycopg.OperationalError("the connection was closed")
        except (psycopg.Error, OSError) as exc:
            self.error = exc
        self._on_lost()

    async def close(self) -> None:
        """Stop at once, whatever the server does."""
        # The pump only ever waits for input (no query is active), so cancelling it asks nothing of the server.
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
        self._conn.pgconn.finish()
