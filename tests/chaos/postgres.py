"""Postgres under faults: kills, immediate restarts, frozen and cut connections, a disabled trigger, slow consumers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from tests.chaos.harness import Chaos, Fault
from tests.chaos.ledger import Ledger
from tests.conftest import engine_schema
from tests.proxy import Proxy

WRITERS = 16


class PostgresChaos(Chaos):
    """One Postgres."""

    errors = (OSError, psycopg.Error)

    def __init__(self, version: int, seconds: float, seed: int, pause_s: float) -> None:
        super().__init__(seconds, seed)
        self.name = f"PostgreSQL {version}, {WRITERS} writers"
        self.writer_pause_s = pause_s
        self.server = embedded.postgres("max_connections=200", version=version)
        engine_schema(self.server.url)
        self.proxy = Proxy(str(self.server.directory / ".s.PGSQL.5432"))

    async def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self.server.url, autocommit=True, connect_timeout=5) as conn:
            rows: list[tuple[Any, ...]] = []
            for statement in statements:
                cursor = await conn.execute(statement.encode())
                rows = await cursor.fetchall() if cursor.description else []
            return rows

    # ── misfortunes ──────────────────────────────────────────────────────────────────────────────────────────────

    async def kill_readers(self) -> None:
        await self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ffcompletion'")

    async def kill_everybody(self) -> None:
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )

    async def silence(self) -> None:
        await self.sql(
            "SET lock_timeout = '3s'", "ALTER TABLE ff_completion_event DISABLE TRIGGER ff_notify_completion"
        )
        await asyncio.sleep(2 * self.dice.random())
        await self.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER ff_notify_completion")

    @override
    def kinds(self) -> list[Fault]:
        return [
            self.kill_readers, self.kill_everybody, self.restart, self.freeze, self.blackhole, self.cut, self.silence
        ]  # fmt: skip

    @override
    async def heal(self) -> None:
        self.proxy.thaw()
        with contextlib.suppress(psycopg.Error):
            await self.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER ff_notify_completion")

    # ── consumers ────────────────────────────────────────────────────────────────────────────────────────────────

    async def resuming(self, backend: PostgresBackend, ledger: Ledger) -> None:
        """Stops at random, forgets what it had in hand, and comes back to its cursor."""
        cursor = ffc.StreamCursor.beginning()
        while True:
            try:
                async with ffc.subscribe(backend, cursor=cursor) as stream:
                    for _ in range(self.dice.randint(1, 5000)):
                        completion = await stream.__anext__()
                        ledger.add(completion.execution_id)
                        if completion.cursor is not None:
                            cursor = completion.cursor
            except ffc.EngineError:
                await asyncio.sleep(0.2)

    @asynccontextmanager
    async def backends(self) -> AsyncGenerator[tuple[PostgresBackend, PostgresBackend]]:
        through = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/postgres"
        async with (
            PostgresBackend(self.server.url, buffer_size=2000) as near,
            PostgresBackend(through, buffer_size=2000) as far,
        ):
            yield near, far

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def run(self) -> bool:
        with self.proxy:
            async with self.backends() as (near, far):
                for place, backend in (("near", near), ("through the proxy", far)):
                    plain = await backend.subscribe_completions()
                    tenant = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
                    slow = await backend.subscribe_completions()
                    self.start(self.read(plain, self.ledger(f"{place}")))
                    self.start(self.read(tenant, self.ledger(f"{place}, tenant a")))
                    self.start(self.read(slow, self.ledger(f"{place}, slow"), 3.0))
                    self.start(self.resuming(backend, self.ledger(f"{place}, resuming", may_repeat=True)))
                writer = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.chaos.writer", self.server.url,
                    str(self.seed), str(self.seconds), str(WRITERS), str(self.writer_pause_s),
                )  # fmt: skip
                await self.misfortunes()
                await asyncio.wait_for(writer.wait(), 120)
                await self.settle()
        return self.sound

    @override
    async def truth(self) -> list[tuple[str, str]]:
        rows = await self.sql(
            "SELECT '{fp:' || e.partition_key || '}:' || e.execution_id, coalesce(e.namespace, c.raw_fields->>'namespace')"
            " FROM ff_completion_event e LEFT JOIN ff_exec_core c USING (partition_key, execution_id)"
        )
        return [(row[0], row[1]) for row in rows]


async def run_chaos(version: int, seconds: float, seed: int, pause_s: float = 0.05) -> tuple[bool, str]:
    """Run it; whether all accounts are sound, and the ledger as text."""
    chaos = await asyncio.to_thread(PostgresChaos, version, seconds, seed, pause_s)
    try:
        sound = await chaos.run()
    finally:
        await asyncio.to_thread(chaos.server.close)
    return sound, chaos.report()
