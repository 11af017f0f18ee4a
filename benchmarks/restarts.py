"""What a restart costs: how many completions ``checkpointed`` processes again, at work and at rest."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from pathlib import Path

import psycopg

import ffcompletion as ffc
from benchmarks.postgres import prepare
from benchmarks.table import Row, median
from ffcompletion.backends.postgres import PostgresBackend

RESTARTS = 20
ROWS = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
    " SELECT 0, gen_random_uuid(), 'success', %s, 1 FROM generate_series(1, %s)"
)


async def _write(url: str) -> None:
    """Some 300 a second for us, as many for others."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while True:
            await conn.execute(ROWS, ("ours", 3))
            await conn.execute(ROWS, ("theirs", 3))
            await asyncio.sleep(0.01)


class _Consumer:
    """Processes each in a millisecond, and counts what it has seen before."""

    def __init__(self, url: str, store: ffc.FileCheckpoints, *, at_once: int, ended_by: str) -> None:
        self.url = url
        self.store = store
        self.at_once = at_once
        self.ended_by = ended_by
        self.seen: set[str] = set()
        self.repeated = 0

    async def handle(self, completion: ffc.CompletionPayload) -> None:
        await asyncio.sleep(0.001)
        self.repeated += completion.execution_id in self.seen
        self.seen.add(completion.execution_id)

    async def consume(self, store: ffc.CheckpointStore) -> None:
        async with PostgresBackend(self.url) as backend:
            start = ffc.StreamCursor.beginning()
            name = f"{self.at_once}-{self.ended_by}"
            async with ffc.checkpointed(backend, store, name, ffc.ScannerFilter("ours"), start=start) as completions:
                await completions.run(self.handle, concurrency=self.at_once)

    async def restarts(self) -> list[int]:
        """How many were repeated after each."""
        dice = random.Random(7)
        repeated: list[int] = []
        for _ in range(RESTARTS):
            before = self.repeated
            store = _Mortal(self.store)
            consuming = asyncio.create_task(self.consume(store))
            await asyncio.sleep(0.5 + 0.5 * dice.random())
            # A killed process stores nothing on its way out.
            store.dead = self.ended_by == "a kill"
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
            repeated.append(self.repeated - before)
        return repeated[1:]


class _Mortal:
    """A store whose process can be killed: what is saved after that is not."""

    def __init__(self, store: ffc.CheckpointStore) -> None:
        self._store = store
        self.dead = False

    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        return await self._store.load(name)

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        if not self.dead:
            await self._store.save(name, checkpoint)


async def run(url: str) -> list[Row]:
    """On the one server of this URL."""
    await prepare(url)
    # The pool tells of each connection that a cancelled read leaves behind.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    rows: list[Row] = []
    writing = asyncio.create_task(_write(url))
    try:
        with tempfile.TemporaryDirectory() as folder:
            for at_once in (1, 8):
                for ended_by in ("cancellation", "a kill"):
                    began = time.perf_counter()
                    store = ffc.FileCheckpoints(Path(folder) / f"{at_once} {ended_by}")
                    consumer = _Consumer(url, store, at_once=at_once, ended_by=ended_by)
                    found = await consumer.restarts()
                    rate = len(consumer.seen) / (time.perf_counter() - began)
                    rows.append(
                        Row(
                            what=f"`checkpointed`, a body of 1 ms, {at_once} at once, {rate:.0f}/s, filtered, ended by"
                            f" {ended_by}: items repeated for each restart, median of {len(found)}",
                            ours=f"{median(found):.0f} (at most {max(found)})",
                            floor=f"{at_once * 100}" if ended_by == "a kill" else "10",
                        )
                    )
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return rows
