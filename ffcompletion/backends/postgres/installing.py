"""Put the producer's SQL on a server, take it away, and clear away what it recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.errors import Diagnostic

from ffcompletion.backends.postgres.connection import Connection, Target, deadline, limited
from ffcompletion.backends.postgres.errors import driver_errors
from ffcompletion.backends.postgres.locking import LOCK_MS, PAUSE_S, held_by, holder_of
from ffcompletion.contract.errors import Unavailable

__all__ = ["connected", "install_producer", "prune", "uninstall_producer"]

_OLDEST = 150_000
# A script may have to wait for whoever writes to a table; a piece of pruning takes seconds where there is much.
_STATEMENT_S: Final = 60.0
_BRIEFLY: Final[LiteralString] = "SELECT set_config('lock_timeout', %s, true)"
_TABLES: Final = ("ff_completion_event", "ff_exec_core")


async def install_producer(conninfo: str, script: str, schema: str | None) -> str:
    """Run ``script`` in one transaction; what was done, in one line. Raises ``EngineError``."""
    return await _run(
        conninfo, "producers install", script, schema, "ff_completion_event and ff_emit_completion() are ready"
    )


async def uninstall_producer(conninfo: str, script: str, schema: str | None) -> str:
    """Run ``script`` in one transaction; what was done, in one line. Raises ``EngineError``."""
    return await _run(conninfo, "producers uninstall", script, schema, "ff_completion_event and its functions are gone")


async def _run(conninfo: str, op: str, script: str, schema: str | None, done: str) -> str:
    target = Target(conninfo, 8.0)
    notices: list[str] = []

    def on_notice(diagnostic: Diagnostic) -> None:
        notices.append(diagnostic.message_primary or "")

    async with connected(target, op) as conn:
        conn.add_notice_handler(on_notice)
        until = time.monotonic() + _STATEMENT_S
        while True:
            try:
                async with _inside(conn, schema):
                    await conn.execute(_BRIEFLY, (f"{LOCK_MS}ms",))
                    # The package's own file, not a caller's text.
                    await conn.execute(script.encode())
                break
            except psycopg.errors.LockNotAvailable as exc:
                if time.monotonic() > until:
                    async with _inside(conn, schema):
                        holder = await (await conn.execute(*holder_of(_TABLES))).fetchone()
                    raise Unavailable(op, held_by("a table of ours", holder, "run this")) from exc
            notices.clear()
            await asyncio.sleep(PAUSE_S)
    notable = [notice for notice in notices if "nothing was changed" in notice or "partitioned" in notice]
    if not notable:
        return f"{target.shown}: {done}"
    return f"{target.shown}: {notable[0] if 'nothing was changed' in notable[0] else f'{done}; {notable[0]}'}"


async def prune(conninfo: str, older_than: timedelta, unfinished: timedelta | None, schema: str | None) -> int:
    """Call ``ff_prune_completions`` until nothing is left to remove; how many rows. Raises ``EngineError``."""
    total = 0
    async with connected(Target(conninfo, 8.0), "producers prune") as conn:
        while True:
            try:
                async with _inside(conn, schema):
                    cursor = await conn.execute("SELECT ff_prune_completions(%s, %s)", (older_than, unfinished))
                    row = await cursor.fetchone()
            except psycopg.errors.UndefinedFunction as exc:
                raise Unavailable("producers prune", "run `ffcompletion producers install URL` first") from exc
            if row is None or not row[0]:
                return total
            total += int(row[0])


@asynccontextmanager
async def connected(target: Target, op: str) -> AsyncGenerator[Connection]:
    """A connection for a few statements. The driver's errors come out as ours."""
    async with driver_errors(target.shown, op), await target.connect() as conn:
        if conn.info.server_version < _OLDEST:
            raise Unavailable(op, "PostgreSQL 15 or later is needed")
        yield conn


@asynccontextmanager
async def _inside(conn: Connection, schema: str | None) -> AsyncGenerator[None]:
    """One transaction in this schema. For its length alone: a pooler gives the session to others.

    What we gave up is given up by the server too: where it went on waiting for a lock, every writer would wait behind it.
    """
    with deadline(conn, _STATEMENT_S):
        async with limited(conn, _STATEMENT_S):
            if schema is not None:
                await conn.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema)))
            yield
