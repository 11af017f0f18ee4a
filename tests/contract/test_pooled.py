"""The contract through PgBouncer, in transaction and in session mode: the whole kit, and what stands beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.testing import BackendContract, Options, Subject
from tests.contract.test_conformance import Contract, PostgresAnnouncer
from tests.worlds import PostgresWorld, done, eventually, some
from tests.worlds.servers import pgbouncer


@pytest.fixture(scope="module", params=["transaction", "session"])
def door(
    request: pytest.FixtureRequest, postgres18_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The pooler's address."""
    folder = tmp_path_factory.mktemp(request.param)
    # In session mode each connection of ours keeps one of the server's.
    with pgbouncer(postgres18_url, folder, request.param, default_pool_size=40) as url:
        yield url


@pytest.fixture
async def world(postgres18_url: str) -> AsyncGenerator[PostgresWorld]:
    """What writes: straight to the server."""
    async with PostgresWorld(18, postgres18_url) as made:
        await made.reset()
        yield made


def reader(door: str, **options: Any) -> ffc.Backend:
    # Behind a pooler in transaction mode nothing is heard: everything comes by looking.
    return ffc.connect(door, poll_interval=0.05, **options)


class TestPooled(BackendContract):
    """Every clause of the contract that needs no fault."""

    # How much memory is kept, and the position within one stream's states: no pooler has a say in either.
    test_4_3_bounded = test_8_7_position_in_the_past = test_8_8_position_joining = None
    test_8_9_position_after_overflow = test_8_10_position_beside_strangers = test_8_11_position_closed = None
    test_8_12_checkpointed = None

    @pytest.fixture
    def backend_contract(self, door: str, postgres18_url: str) -> Contract:
        @asynccontextmanager
        async def subject() -> AsyncGenerator[Subject]:
            world = PostgresWorld(18, postgres18_url)
            await world.reset()
            try:
                yield Subject(
                    lambda: reader(door, buffer_size=50),
                    PostgresAnnouncer(world),
                    Options(flood=150, patience_s=20),
                )
            finally:
                await world.close()

        return subject


async def test_states_waits_and_results(door: str, world: PostgresWorld) -> None:
    """Asked often enough that a driver would prepare by itself, by several at once."""
    finished, running, flow = done(namespace="a", result=b"42"), done(), "22222222-2222-2222-2222-222222222222"
    await world.joins(flow, running)
    await world.begins(finished)
    async with reader(door) as backend:
        waiting = [
            asyncio.create_task(ffc.wait_for_completion(backend, finished.execution_id, timeout=20, result=True))
            for _ in range(5)
        ]
        await eventually(lambda: backend.stats().streams == 1)
        await world.ends(finished)
        assert {(got.outcome, got.payload_bytes) for got in await asyncio.gather(*waiting)} == {("success", b"42")}
        for _ in range(4):
            found = await asyncio.gather(
                *(backend.describe_execution(finished.execution_id, result=True) for _ in range(4))
            )
            assert all(each is not None and each.result == b"42" for each in found)
            assert list(await backend.flow_members(flow)) == [running.execution_id]
        with pytest.raises(TimeoutError, match="has not finished"):
            await ffc.wait_for_completion(backend, running.execution_id, timeout=0)
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_completion(backend, done().execution_id, timeout=5)
        await world.ends(running)
        assert list(await ffc.wait_for_flow(backend, flow, timeout=20)) == [running.execution_id]


async def test_filters_and_results_from_a_cursor(door: str, world: PostgresWorld) -> None:
    """Stored and live, by tenant and tag, with the results."""
    wanted = ffc.ScannerFilter("a", ("key", "value"))
    stored = [done(namespace="a", tags={"key": "value"}, result=b"r%d" % number) for number in range(5)]
    await world.announce(*stored, done(namespace="b", tags={"key": "value"}), done(namespace="a"))
    live = [done(namespace="a", tags={"key": "value"}, result=b"live") for _ in range(3)]
    async with reader(door) as backend:
        beginning = ffc.StreamCursor.beginning()
        async with ffc.subscribe(backend, wanted, cursor=beginning, results=True) as stream:
            got = await some(stream, 5)
            await world.announce(*live, done(namespace="b", tags={"key": "value"}))
            got += await some(stream, 3)
    assert [(p.execution_id, p.payload_bytes) for p in got] == [(i.execution_id, i.result) for i in (*stored, *live)]


async def test_a_consumer_that_is_started_again(door: str, world: PostgresWorld) -> None:
    """Position and completions both through the pooler: each is processed, none twice where the first ended in order."""
    items = [done() for _ in range(30)]
    seen: list[str] = []
    await world.announce(*items[:10])
    for until in (10, 20, 30):
        async with reader(door) as backend, PostgresCheckpoints(door, table="pooled") as store:
            start = ffc.StreamCursor.beginning()
            async with ffc.checkpointed(backend, store, "pooled", start=start, save_interval=0) as completions:
                async for completion in completions:
                    seen.append(completion.execution_id)
                    if len(seen) == until:
                        await completions.commit()
                        break
        await world.announce(*items[until : until + 10])
    assert seen == [item.execution_id for item in items]
    await world.sql("DROP TABLE pooled")
