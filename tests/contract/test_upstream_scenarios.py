"""What the Rust reader's own tests cover, on both servers, by raw wire."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, first, insert, some


async def test_a_published_completion_is_yielded(world: World) -> None:
    """The simplest case."""
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        item = done()
        await world.announce(item)
        payload = await first(stream)
    assert (payload.execution_id, payload.outcome, payload.flow_id) == (item.execution_id, "success", item.flow_id)


async def test_two_streams_both_receive(world: World) -> None:
    """Each gets every one."""
    items = [done() for _ in range(5)]
    async with world.backend() as backend, ffc.subscribe(backend) as one, ffc.subscribe(backend) as two:
        await world.announce(*items)
        for stream in (one, two):
            assert [p.execution_id for p in await some(stream, 5)] == [i.execution_id for i in items]


async def test_two_tag_filtered_streams_get_exactly_their_own(world: World) -> None:
    """Two instances, one tag key, on double-tagged keys."""
    mine = [done(tags={"cairn.instance_id": "i-1"}) for _ in range(3)]
    theirs = [done(tags={"cairn.instance_id": "i-2"}) for _ in range(3)]
    async with world.backend() as backend:
        one = await backend.subscribe_completions_filtered(ffc.ScannerFilter(instance_tag=("cairn.instance_id", "i-1")))
        two = await backend.subscribe_completions_filtered(ffc.ScannerFilter(instance_tag=("cairn.instance_id", "i-2")))
        for pair in zip(mine, theirs, strict=True):
            await world.announce(*pair)
        assert [p.execution_id for p in await some(one, 3)] == [i.execution_id for i in mine]
        assert [p.execution_id for p in await some(two, 3)] == [i.execution_id for i in theirs]
        assert one.stats().filtered == two.stats().filtered == 3
        await one.aclose()
        await two.aclose()


@pytest.mark.parametrize("outcome", ["expired", "failed", "cancelled", "skipped"])
async def test_every_outcome_announces_for_a_flow_member(world: World, outcome: str) -> None:
    """Not only success."""
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        await world.announce(done(outcome=outcome))
        assert (await first(stream)).outcome == outcome


async def test_valkey_is_silent_for_solo_executions(valkey: ValkeyWorld) -> None:
    """A solo execution is never published, so the next flow member's comes first."""
    async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
        member = done()
        await valkey.announce(done(flow_id=None), member)
        assert (await first(stream)).execution_id == member.execution_id


async def test_postgres_has_rows_for_solo_executions(postgres: PostgresWorld) -> None:
    """With no flow."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        solo = done(flow_id=None)
        await postgres.announce(solo)
        payload = await first(stream)
    assert (payload.execution_id, payload.flow_id) == (solo.execution_id, None)


async def test_a_burst_in_one_transaction_arrives_whole_and_in_order(postgres: PostgresWorld) -> None:
    """Five hundred rows, one commit."""
    items = [done() for _ in range(500)]
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        conn = await postgres.connect(autocommit=False)
        for item in items:
            await insert(conn, item, core=False)
        await conn.commit()
        await conn.close()
        assert [p.execution_id for p in await some(stream, 500)] == [i.execution_id for i in items]


async def test_dropping_the_stream_ends_the_background_work(world: World) -> None:
    """No task of ours is left once the last stream is closed."""
    async with world.backend() as backend:
        async with ffc.subscribe(backend):
            pass
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ffcompletion")]
