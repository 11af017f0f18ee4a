"""Postgres under faults: kills, immediate restarts, frozen and cut connections, a disabled trigger, slow consumers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.chaos.harness import Chaos, Fault
from tests.chaos.ledger import Ledger
from tests.chaos.poison import Held, kind_of, poisons
from tests.worlds.proxy import Proxy
from tests.worlds.templates import ENGINE_PARTITIONS, engine_schema, postgres

WRITERS = 16
ONE_ROW = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
    " VALUES (0, gen_random_uuid(), 'success', %s, 1)"
)


class Remembered:
    """A store in memory, which survives its consumer."""

    def __init__(self) -> None:
        self.checkpoint: ffc.Checkpoint | None = None

    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        return self.checkpoint

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        self.checkpoint = checkpoint


def enter(seen: Path, offset: int, ledger: Ledger) -> int:
    """Whole lines from ``offset`` on, into the ledger; where they end."""
    if not seen.exists():
        return offset
    with seen.open("rb") as file:
        file.seek(offset)
        whole, _, _ = file.read().rpartition(b"\n")
    for line in whole.split():
        ledger.add(line.decode())
    return offset + len(whole) + 1 if whole else offset


class PostgresChaos(Chaos):
    """One Postgres."""

    errors = (OSError, psycopg.Error)

    def __init__(
        self,
        version: int,
        seconds: float,
        seed: int,
        pause_s: float,
        poison: float,
        *,
        any_bytes: bool,
        partitions: int,
    ) -> None:
        """``any_bytes``: in a database without an encoding, which takes any."""
        super().__init__(seconds, seed, poison)
        self.name = f"PostgreSQL {version}, {WRITERS} writers" + (", SQL_ASCII" if any_bytes else "")
        self.writer_pause_s = pause_s
        self.any_bytes = any_bytes
        self.server = postgres("max_connections=200", version=version, partitions=partitions)
        self.url = self.server.url
        self.database = "postgres"
        if any_bytes:
            self.database = "anything"
            self.url = self.server.url.replace("/postgres?", "/anything?")
            with psycopg.connect(self.server.url, autocommit=True) as conn:
                conn.execute(
                    "CREATE DATABASE anything TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
                )
            engine_schema(self.url, partitions)
        self.proxy = Proxy(str(self.server.directory / ".s.PGSQL.5432"))

    async def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(
            self.url, autocommit=True, connect_timeout=5, client_encoding="utf8"
        ) as conn:
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

    async def checkpointed(
        self, backend: PostgresBackend, ledger: Ledger, wanted: ffc.CompletionFilter | None, concurrency: int
    ) -> None:
        """Ended at random by cancellation, at work or waiting, and started again where it stored; its body is slow.

        What its bodies have done is the ledger.
        """
        store = Remembered()

        async def handle(completion: ffc.CompletionPayload) -> None:
            if self.dice.random() < 0.05:
                await asyncio.sleep(0.02 * self.dice.random())
            ledger.add(completion.execution_id)

        async def consume() -> None:
            start = ffc.StreamCursor.beginning()
            async with ffc.checkpointed(backend, store, "chaos", wanted, start=start) as completions:
                if concurrency > 1:
                    await completions.run(handle, concurrency=concurrency)
                async for completion in completions:
                    await handle(completion)

        while True:
            consumer = asyncio.create_task(consume())
            try:
                await asyncio.wait({consumer}, timeout=None if self.ending else 2 * self.dice.random() ** 2)
            finally:
                consumer.cancel()
                await asyncio.wait({consumer})
            if not consumer.cancelled() and isinstance(consumer.exception(), ffc.EngineError):
                await asyncio.sleep(0.2)

    async def killed(self, ledger: Ledger) -> None:
        """The same in a process of its own, filtered, that is killed at random: what it wrote down is the ledger."""
        with tempfile.TemporaryDirectory(prefix="ffcompletion-chaos-") as folder:
            seen = Path(folder) / "seen"
            offset = 0
            while True:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.programs.remembers", self.url, folder, "1", "a",
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                try:
                    left = time.monotonic() + 2 + 6 * self.dice.random()
                    while process.returncode is None and (self.ending or time.monotonic() < left):
                        await asyncio.sleep(0.1)
                        offset = enter(seen, offset, ledger)
                finally:
                    if process.returncode is None:
                        process.kill()
                    await process.wait()

    async def old_transactions(self) -> None:
        """Two that are open for seconds, so that the watermark stands far behind what is delivered."""
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            with contextlib.suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=5) as conn:
                    for _ in range(2):
                        await conn.execute(ONE_ROW, ("a",))
                        await asyncio.sleep(3 * self.dice.random())
                    await (conn.commit() if self.dice.random() < 0.5 else conn.rollback())
            await asyncio.sleep(self.dice.random())

    @asynccontextmanager
    async def backends(self) -> AsyncGenerator[tuple[PostgresBackend, PostgresBackend]]:
        through = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{self.database}"
        async with (
            PostgresBackend(self.url, buffer_size=2000, setup_timeout=60) as near,
            PostgresBackend(through, buffer_size=2000, setup_timeout=60) as far,
        ):
            yield near, far

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    async def run(self) -> bool:
        with self.proxy:
            async with self.backends() as (near, far):
                for place, backend in (("near", near), ("through the proxy", far)):
                    plain = await backend.subscribe_completions()
                    slow = await backend.subscribe_completions()
                    self.start(self.read(plain, self.ledger(f"{place}")))
                    self.start(self.read(slow, self.ledger(f"{place}, slow"), 3.0))
                    for tenant, shard in (("a", None), ("c", None), ("c", "1"), (None, "1")):
                        wanted = ffc.ScannerFilter(tenant, None if shard is None else ("shard", shard))
                        filtered = await backend.subscribe_completions_filtered(wanted)
                        self.start(self.read(filtered, self.ledger(place, tenant, shard)))
                    await self.beside(place, backend)
                    self.start(self.resuming(backend, self.ledger(f"{place}, resuming", may_repeat=True)))
                    for name, tenant, concurrency in (
                        ("checkpointed", None, 1),
                        ("checkpointed", "a", 1),
                        ("8 at once", "b", 8),
                    ):
                        ledger = self.ledger(f"{place}, {name}", tenant, may_repeat=True)
                        self.start(
                            self.checkpointed(
                                backend, ledger, None if tenant is None else ffc.ScannerFilter(tenant), concurrency
                            )
                        )
                self.start(self.killed(self.ledger("killed", "a", may_repeat=True)))
                old = asyncio.create_task(self.old_transactions())
                await self.write("writer", self.url, self.seed, self.seconds, WRITERS, self.writer_pause_s, self.poison)
                await old
                await self.settle()
        return self.sound

    @override
    async def truth(self) -> list[Held]:
        rows = await self.sql(
            "SELECT '{fp:' || e.partition_key || '}:' || e.execution_id, coalesce(e.namespace, c.raw_fields->>'namespace'),"
            " c.raw_fields->'tags'->>'shard'"
            " FROM ff_completion_event e LEFT JOIN ff_exec_core c USING (partition_key, execution_id)"
            " WHERE e.execution_id::text NOT LIKE 'dead____-beef-%'"
        )
        poisoned = await self.sql(
            "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_completion_event"
            " WHERE execution_id::text LIKE 'dead____-beef-%' AND partition_key >= 0"
        )
        kinds = poisons(any_bytes=self.any_bytes)
        held = [Held(*row) for row in rows]
        for (id_,) in poisoned:
            kind = kind_of(id_)
            # Nobody's tag can be told of any of them.
            held += [] if kind is None else [Held(id_, kinds[kind].tenant, None, kinds[kind].certain)]
        return held


async def run_chaos(
    version: int,
    seconds: float,
    seed: int,
    pause_s: float = 0.05,
    poison: float = 0.001,
    *,
    any_bytes: bool = False,
    partitions: int = ENGINE_PARTITIONS,
) -> tuple[bool, str]:
    """Run it; whether all accounts are sound, and the ledger as text."""
    chaos = await asyncio.to_thread(
        PostgresChaos, version, seconds, seed, pause_s, poison, any_bytes=any_bytes, partitions=partitions
    )
    try:
        sound = await chaos.run()
    finally:
        await asyncio.to_thread(chaos.server.close)
    return sound, chaos.report()
