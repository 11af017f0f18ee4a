"""Postgres under faults: kills, immediate restarts, frozen and cut connections, a disabled trigger, slow consumers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from tests.chaos.ledger import Ledger
from tests.conftest import engine_schema
from tests.proxy import Proxy

WRITERS = 16


class Chaos:
    """One server, its writers, its consumers and its misfortunes."""

    def __init__(self, version: int, seconds: float, seed: int, pause_s: float) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.seconds = seconds
        self.pause_s = pause_s
        self.server = embedded.postgres("max_connections=200", version=version)
        engine_schema(self.server.url)
        self.proxy = Proxy(str(self.server.directory / ".s.PGSQL.5432"))
        self.ledgers: list[Ledger] = []
        self.faults: dict[str, int] = {}
        self.consumers: list[asyncio.Task[None]] = []
        self.ending = False

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

    async def restart(self) -> None:
        self.server.kill()
        await asyncio.sleep(self.dice.random())
        await asyncio.to_thread(self.server.start)

    async def freeze(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(1 + 5 * self.dice.random())
        self.proxy.thaw()

    async def blackhole(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(1 + 3 * self.dice.random())
        self.proxy.cut()
        self.proxy.thaw()

    async def cut(self) -> None:
        self.proxy.cut()

    async def silence(self) -> None:
        await self.sql(
            "SET lock_timeout = '3s'", "ALTER TABLE ff_completion_event DISABLE TRIGGER ff_notify_completion"
        )
        await asyncio.sleep(2 * self.dice.random())
        await self.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER ff_notify_completion")

    async def misfortunes(self, end: float) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.kill_readers, self.kill_everybody, self.restart, self.freeze, self.blackhole, self.cut, self.silence
        ]  # fmt: skip
        while time.monotonic() < end:
            await asyncio.sleep(1 + 3 * self.dice.random())
            fault = self.dice.choice(kinds)
            self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
            with contextlib.suppress(psycopg.Error, OSError):
                await fault()
        self.proxy.thaw()
        with contextlib.suppress(psycopg.Error):
            await self.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER ff_notify_completion")

    # ── consumers ────────────────────────────────────────────────────────────────────────────────────────────────

    def ledger(self, name: str, *, may_repeat: bool = False) -> Ledger:
        made = Ledger(name, may_repeat=may_repeat)
        self.ledgers.append(made)
        return made

    async def read(self, stream: ffc.CompletionStream, ledger: Ledger, stall: float = 0.0) -> None:
        async for completion in stream:
            ledger.add(completion.execution_id)
            if stall and not self.ending and self.dice.random() < 0.0005:
                await asyncio.sleep(stall * self.dice.random())

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

    async def run(self) -> bool:
        with self.proxy:
            async with self.backends() as (near, far):
                for place, backend in (("near", near), ("through the proxy", far)):
                    plain = await backend.subscribe_completions()
                    tenant = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
                    slow = await backend.subscribe_completions()
                    self._start(self.read(plain, self.ledger(f"{place}")))
                    self._start(self.read(tenant, self.ledger(f"{place}, tenant a")))
                    self._start(self.read(slow, self.ledger(f"{place}, slow"), 3.0))
                    self._start(self.resuming(backend, self.ledger(f"{place}, resuming", may_repeat=True)))
                writer = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.chaos.writer", self.server.url,
                    str(self.seed), str(self.seconds), str(WRITERS), str(self.pause_s),
                )  # fmt: skip
                await self.misfortunes(time.monotonic() + self.seconds)
                await asyncio.wait_for(writer.wait(), 120)
                self.ending = True
                await self.settle()
                for task in self.consumers:
                    task.cancel()
                await asyncio.gather(*self.consumers, return_exceptions=True)
        return all(ledger.sound for ledger in self.ledgers)

    def _start(self, work: Any) -> None:
        self.consumers.append(asyncio.create_task(work))

    async def settle(self) -> None:
        """The truth is what the table holds; wait until it has all been delivered, or clearly never will be."""
        rows = await self.sql(
            "SELECT '{fp:' || e.partition_key || '}:' || e.execution_id, coalesce(e.namespace, c.raw_fields->>'namespace')"
            " FROM ff_completion_event e LEFT JOIN ff_exec_core c USING (partition_key, execution_id)"
        )
        everything = [row[0] for row in rows]
        tenant = [row[0] for row in rows if row[1] == "a"]
        end = time.monotonic() + 60
        while True:
            for ledger in self.ledgers:
                ledger.settle(tenant if ledger.name.endswith("tenant a") else everything)
            if all(not ledger.lost for ledger in self.ledgers) or time.monotonic() > end:
                return
            await asyncio.sleep(0.2)

    def report(self, version: int) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        head = f"PostgreSQL {version}, seed {self.seed}, {self.seconds:.0f} s, {WRITERS} writers; faults: {faults}"
        return "\n".join([head, *(ledger.row() for ledger in self.ledgers)])


async def run_chaos(version: int, seconds: float, seed: int, pause_s: float = 0.05) -> tuple[bool, str]:
    """Run it; whether all accounts are sound, and the ledger as text."""
    chaos = await asyncio.to_thread(Chaos, version, seconds, seed, pause_s)
    try:
        sound = await chaos.run()
    finally:
        await asyncio.to_thread(chaos.server.close)
    return sound, chaos.report(version)
