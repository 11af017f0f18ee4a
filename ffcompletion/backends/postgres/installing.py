"""Put the producer's SQL on a server."""

from __future__ import annotations

from psycopg import sql
from psycopg.errors import Diagnostic

from ffcompletion.backends.postgres.connection import Target
from ffcompletion.backends.postgres.errors import driver_errors
from ffcompletion.contract.errors import Unavailable

__all__ = ["install_producer"]


async def install_producer(conninfo: str, script: str, schema: str | None) -> str:
    """Run ``script`` in one transaction; what was done, in one line. Raises ``EngineError``."""
    target = Target(conninfo, 8.0)
    notices: list[str] = []

    def on_notice(diagnostic: Diagnostic) -> None:
        notices.append(diagnostic.message_primary or "")

    async with driver_errors(target.shown, "producers install"), await target.connect() as conn, conn.transaction():
        if conn.info.server_version < 150_000:
            raise Unavailable("producers install", "PostgreSQL 15 or later is needed")
        if schema is not None:
            await conn.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema)))
        conn.add_notice_handler(on_notice)
        # The package's own file, not a caller's text.
        await conn.execute(script.encode())
    told = [notice for notice in notices if "nothing was changed" in notice or "partitioned" in notice]
    ready = "ff_completion_event and ff_emit_completion() are ready"
    if not told:
        return f"{target.shown}: {ready}"
    return f"{target.shown}: {told[0] if 'nothing was changed' in told[0] else f'{ready}; {told[0]}'}"
