"""What decides whether a Postgres announces completions to this user, asked in one read-only transaction."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo

from ffcompletion.backends.postgres import doctor_queries as ask
from ffcompletion.backends.postgres.attachments import attachments_query
from ffcompletion.backends.postgres.conninfo import parsed, place
from ffcompletion.backends.postgres.doctor_commands import CONNECT_S, Commands, no_room, not_connected, quoted
from ffcompletion.backends.postgres.doctor_findings import (
    FREE_QUEUE,
    MORE_LOCKS,
    MORE_SESSIONS,
    OLDEST,
    attachments,
    filling,
    rights,
    role,
    sequence,
    statistics,
    timeouts,
    trigger,
    version_of,
    watermark,
)
from ffcompletion.backends.postgres.errors import first_line
from ffcompletion.backends.postgres.holders import HOLDERS, Holder
from ffcompletion.contract.diagnosis import Finding, Verdict, about_clocks, about_no_encryption

__all__ = ["checks"]

_ANSWER_S: Final = 4.0
_ECHO_S: Final = 1.5

Connection = AsyncConnection[tuple[Any, ...]]
OK, NOTE, WARNING, FAILURE = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.FAILURE


async def checks(url: str, schema: str | None) -> AsyncGenerator[Finding]:
    """Each finding as it comes; ends after the first that makes the rest unanswerable."""
    given = parsed(url)
    defaults = {"connect_timeout": str(CONNECT_S), "application_name": "ffcompletion doctor"}
    extra = {name: value for name, value in defaults.items() if name not in given}
    # Whatever the role would have: texts in another encoding would come as bytes.
    conninfo = make_conninfo(url, **extra, client_encoding="UTF8")
    shown, commands = place(given), Commands(url, given, schema)
    before = time.monotonic()
    try:
        async with asyncio.timeout(_ANSWER_S):
            conn = await AsyncConnection.connect(conninfo, autocommit=True)
    except (psycopg.Error, OSError, TimeoutError) as exc:
        yield not_connected(exc, shown, commands)
        return
    yield Finding("connection", OK, f"{shown}, in {(time.monotonic() - before) * 1000:.0f} ms")
    try:
        yield _tls(conn)
        async for finding in _examined(conn, conninfo, schema, commands):
            yield finding
    except (psycopg.Error, OSError) as exc:
        yield Finding("connection", FAILURE, f"lost while being asked: {first_line(exc)}", "")
    finally:
        conn.pgconn.finish()


def _tls(conn: Connection) -> Finding:
    if conn.pgconn.ssl_in_use:
        # As it is in force: the environment and a service file have a say, too.
        mode = conn.info.get_parameters().get("sslmode", "prefer")
        if mode in ("verify-full", "verify-ca"):
            return Finding("TLS", OK, f"encrypted, sslmode={mode}")
        return Finding(
            "TLS", NOTE, f"encrypted, and the server is not verified (sslmode={mode})", "sslmode=verify-full in the URL"
        )
    return about_no_encryption(conn.info.host, "sslmode=verify-full in the URL")


async def _examined(conn: Connection, conninfo: str, schema: str | None, commands: Commands) -> AsyncGenerator[Finding]:
    with _deadline(conn, _ANSWER_S):
        # Nothing can be changed in it, and behind a pooler no setting stays with somebody else's session.
        await conn.execute("BEGIN READ ONLY")
        await conn.execute("SET LOCAL statement_timeout = '3s'")
        asked = _Asked(conn)
        before = time.time()
        server = await asked.row(ask.SERVER)
        after = time.time()
        version, replica, lag_s, pid, user, now = server
        yield Finding("version", *version_of(version, await asked.row("SHOW server_version")))
        if version < OLDEST:
            return
        yield role(replica, lag_s)
        pooled = pid != conn.info.backend_pid
        yield about_clocks(float(now), before, after)
        tables = await asked.rows(ask.TABLES, (schema, schema))
        findings, oid = rights(tables, schema, user, commands)
        for finding in findings:
            yield finding
        for finding in await _server_wide(asked, user, conn.info.dbname):
            yield finding
        if oid is not None:
            for finding in await _outbox(asked, oid, user, commands):
                yield finding
        await conn.execute("ROLLBACK")
    try:
        yield await _echo(conninfo, pooled=pooled, replica=replica)
    except psycopg.OperationalError as exc:
        # A pooler says so when the connection is first used.
        if (full := no_room(exc, commands)) is None:
            raise
        yield full


@final
class _Asked:
    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def rows(self, text: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        cursor = await self._conn.execute(text.encode(), values or None)
        return await cursor.fetchall()

    async def row(self, text: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
        return (await self.rows(text, values))[0]


async def _server_wide(asked: _Asked, user: str, database: str) -> list[Finding]:
    queue, locks, most_locks, sessions, most_sessions = await asked.row(ask.ROOM)
    return [
        filling("notification queue", float(queue), FREE_QUEUE, 0.1),
        filling("lock table", locks / most_locks, MORE_LOCKS, 0.5),
        filling("sessions", sessions / most_sessions, MORE_SESSIONS, 0.9),
        timeouts({name: int(value) for name, value in await asked.rows(ask.TIMEOUTS)}, user, database),
    ]


async def _outbox(asked: _Asked, oid: int, user: str, commands: Commands) -> list[Finding]:
    schema, there, readable = await asked.row(ask.ATTACHMENTS, (oid,))
    registry = quoted(schema, "ff_attachment")
    never, tables = await asked.row(ask.STATISTICS, (oid,))
    return [
        trigger(await asked.rows(ask.TRIGGERS, (oid,)), commands),
        *(
            [attachments(await asked.rows(attachments_query(registry)) if readable else None, schema, user, commands)]
            if there
            else []
        ),
        sequence(await asked.rows(ask.SEQUENCE, (oid,))),
        statistics(never, tables, schema),
        watermark([Holder.of(row) for row in await asked.rows(HOLDERS, (oid, oid))], user),
    ]


async def _echo(conninfo: str, *, pooled: bool, replica: bool) -> Finding:
    """LISTEN on a channel of our own, NOTIFY from another session: the whole way round."""
    through = "through a pooler, " if pooled else ""
    if replica:
        return Finding("echo", WARNING, "not tried: a replica cannot LISTEN", "name the primary")
    channel = f"ffcompletion_doctor_{secrets.token_hex(8)}"
    async with _another(conninfo) as listening, _another(conninfo) as notifying:
        with _deadline(listening, _ANSWER_S), _deadline(notifying, _ANSWER_S):
            await listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            before = time.monotonic()
            await notifying.execute("SELECT pg_notify(%s, 'echo')", (channel,))
            notes = [note async for note in listening.notifies(timeout=_ECHO_S, stop_after=1)]
            took_ms = (time.monotonic() - before) * 1000
            await listening.execute(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))
    if notes:
        return Finding("echo", OK, f"LISTEN hears a NOTIFY {through}in {took_ms:.0f} ms")
    return Finding(
        "echo", WARNING, f"LISTEN is accepted {through}and hears nothing (transaction pooling does that): completions are polled",
        "connect to the server itself, or to a pool with pool_mode = session",
    )  # fmt: skip


@asynccontextmanager
async def _another(conninfo: str) -> AsyncGenerator[Connection]:
    conn = await AsyncConnection.connect(conninfo, autocommit=True)
    try:
        yield conn
    finally:
        conn.pgconn.finish()


@contextmanager
def _deadline(conn: Connection, seconds: float) -> Generator[None]:
    """What runs on the connection fails after so long, also on a mute server, which no cancelling can end in time."""

    def end() -> None:
        with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(conn.pgconn.socket)) as twin:
            twin.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    finally:
        timer.cancel()
