"""``checkpointed`` over restarts on a real server, many short runs by the dice: what its bodies did is the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import Patience, PostgresWorld

# The long profile: FFCOMPLETION_TEST_RUNS=50.
RUNS = int(os.environ.get("FFCOMPLETION_TEST_RUNS", "1"))
ROWS = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
    " SELECT 0, gen_random_uuid(), 'success', %s, 1 FROM generate_series(1, %s)"
)
PATIENCE_S = 20.0

Body = Callable[[], Awaitable[object]]


class Remembered:
    """A store in memory, which survives the consumer."""

    def __init__(self) -> None:
        self.checkpoint: ffc.Checkpoint | None = None

    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        return self.checkpoint

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        self.checkpoint = checkpoint


class Restarts:
    """One consumer that is ended and started again, beside transactions that are open and other tenants' rows."""

    def __init__(self, world: PostgresWorld, seed: int, body: Body, concurrency: int, *, filtered: bool) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.tenant = f"acme-{seed}-{os.urandom(4).hex()}"
        self.body = body
        self.concurrency = concurrency
        self.filter = ffc.ScannerFilter(self.tenant) if filtered else None
        self.store = Remembered()
        self.done: set[str] = set()
        self.repeated = 0
        self.at_work = 0

    async def consume(self, backend: PostgresBackend, start: ffc.StreamCursor) -> None:
        async def handle(completion: ffc.CompletionPayload) -> None:
            await self.body()
            self.repeated += completion.execution_id in self.done
            self.done.add(completion.execution_id)
            self.at_work += 1

        async with ffc.checkpointed(
            backend, self.store, "r", self.filter, start=start, save_interval=0.01
        ) as completions:
            if self.concurrency > 1:
                await completions.run(handle, concurrency=self.concurrency)
            async for completion in completions:
                await handle(completion)

    @contextlib.asynccontextmanager
    async def open_transactions(self, most: int) -> AsyncGenerator[None]:
        """A backlog beside them; they end one after the other, some by rollback, while the consumer is at work."""
        opened: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
        for _ in range(self.dice.randint(0, 1) * most):
            conn = await self.world.connect(autocommit=False)
            await conn.execute(ROWS.encode(), (self.dice.choice([self.tenant, "globex"]), self.dice.randint(1, 2)))
            opened.append(conn)
            await self.world.sql(ROWS, (self.tenant, self.dice.randint(5, 40)))

        async def end() -> None:
            for conn in opened:
                await asyncio.sleep(0.02 * self.dice.random())
                await (conn.commit() if self.dice.random() < 0.7 else conn.rollback())
                await conn.close()

        ending = asyncio.create_task(end())
        try:
            yield
        finally:
            await ending

    async def strangers(self) -> None:
        conn = await self.world.connect()
        while True:
            await conn.execute(ROWS.encode(), ("globex", 1))
            await asyncio.sleep(0.005)

    async def wanted(self) -> set[str]:
        everything = "" if self.filter else " OR true"
        rows = await self.world.sql(
            "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_completion_event"
            f" WHERE event_id > %s AND (namespace = %s{everything})",
            (self.first, self.tenant),
        )
        return {row[0] for row in rows}

    async def run(self) -> None:
        ((self.first,),) = await self.world.sql(ROWS + " RETURNING event_id", ("globex", 1))
        start = ffc.StreamCursor.outbox(self.first)
        await self.world.sql(ROWS, (self.tenant, self.dice.randint(0, 300)))
        others = asyncio.create_task(self.strangers())
        try:
            async with PostgresBackend(self.world.url, buffer_size=self.dice.choice([20, 10_000])) as backend:
                async with ffc.subscribe(backend), self.open_transactions(20):
                    for _ in range(self.dice.randint(3, 6)):
                        consumer = asyncio.create_task(self.consume(backend, start))
                        # Anywhere: while it opens, in the middle of a page, while it joins, live.
                        await self.until(self.dice.choice([1, 40, 256, 10_000, 10_000]), self.dice.random() * 0.2)
                        await ended(consumer)
                others.cancel()
                await asyncio.gather(others, return_exceptions=True)
                await self.finish(backend, start)
        finally:
            others.cancel()

    async def until(self, items: int, seconds: float) -> None:
        """So many more are done, or that time is over."""
        enough, end = self.at_work + items, time.monotonic() + seconds
        while self.at_work < enough and time.monotonic() < end:
            await asyncio.sleep(0.001)

    async def finish(self, backend: PostgresBackend, start: ffc.StreamCursor) -> None:
        """The last one is left to itself; everything is done by then, or never will be."""
        wanted = await self.wanted()
        consumer = asyncio.create_task(self.consume(backend, start))
        # With a small buffer, behind open transactions and a long outbox, it may have much to repeat: who gets on has time.
        patience = Patience(PATIENCE_S)
        while not wanted <= self.done and patience.lasts(len(self.done)) and not consumer.done():
            await asyncio.sleep(0.01)
            if await self.at_rest(backend):
                break
        await ended(consumer)
        assert consumer.cancelled(), consumer.exception()
        assert not wanted - self.done, f"lost {len(wanted - self.done)} of {len(wanted)}"

    async def at_rest(self, backend: PostgresBackend) -> bool:
        """Whether the stored position has reached the newest row: then nothing more can come."""
        ((newest,),) = await self.world.sql("SELECT max(event_id) FROM ff_completion_event")
        stored = self.store.checkpoint
        return stored is not None and stored.cursor.position >= newest


async def ended(consumer: asyncio.Task[None]) -> None:
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)


async def nothing_to_do() -> None:
    """A body that never waits."""


async def blocks() -> None:
    time.sleep(0.0005)  # a synchronous write, as people have them


@pytest.mark.timeout(120 + 30 * RUNS)
@pytest.mark.parametrize("postgres", [18] if RUNS == 1 else [16, 18], indirect=True)
@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "everything"])
@pytest.mark.parametrize(
    ("body", "concurrency"),
    [
        (nothing_to_do, 1),
        (lambda: asyncio.sleep(0), 1),
        (lambda: asyncio.sleep(0.001), 1),
        (blocks, 1),
        (lambda: asyncio.sleep(0.001 * random.random()), 8),
    ],
    ids=["empty_body", "yields", "waits", "blocks", "8_at_once"],
)
async def test_a_consumer_that_is_ended_anywhere_has_done_everything(
    postgres: PostgresWorld, body: Body, concurrency: int, filtered: bool
) -> None:
    for seed in range(RUNS):
        await Restarts(postgres, seed, body, concurrency, filtered=filtered).run()


async def test_a_position_stays_behind_what_is_unread_while_the_stream_joins(postgres: PostgresWorld) -> None:
    """A backlog that is all ours, other tenants' rows beside it: the cursor never passes what was not yielded."""
    await postgres.sql(ROWS, ("acme", 400))
    async with PostgresBackend(postgres.url) as backend:
        beginning = ffc.StreamCursor.beginning()
        async with (
            ffc.subscribe(backend) as other,
            ffc.subscribe(backend, ffc.ScannerFilter("acme"), cursor=beginning) as stream,
        ):
            for count in range(1, 401):
                completion = await asyncio.wait_for(anext(aiter(stream)), 30)
                if count % 20 == 0:
                    await postgres.sql(ROWS, ("globex", 1))
                    # The hub has handed it out by then.
                    await asyncio.wait_for(anext(aiter(other)), 30)
                cursor = getattr(stream, "cursor", None)
                assert isinstance(cursor, ffc.StreamCursor)
                assert completion.cursor is not None
                if count < 400:
                    assert cursor.position <= completion.cursor.position
