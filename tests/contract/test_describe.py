"""Stored state, asked for: the same answers from every backend, and what is particular to each server."""

from __future__ import annotations

from functools import partial

import pytest

import ffcompletion as ffc
from tests.worlds import World, done, eventually

UNKNOWN = "{fp:9}:550e8400-e29b-41d4-a716-446655440099"


async def test_a_finished_execution(world: World) -> None:
    """Everything that is stored, the result where it is asked for; no stream need be open."""
    item = done(namespace="a", tags={"k": "v"}, result=b"\x00r", outcome="failed")
    async with world.backend() as backend:
        await world.announce(item)
        found = await backend.describe_execution(item.execution_id, result=True)
        assert found is not None
        assert found.is_terminal
        assert (found.execution_id, found.terminal_outcome, found.phase) == (item.execution_id, "failed", "terminal")
        assert (found.namespace, found.flow_id, dict(found.tags)) == ("a", item.flow_id, {"k": "v"})
        assert found.result == item.result
        assert found.completed_at_ms > 0
        bare = await backend.describe_execution(item.execution_id)
        assert bare is not None
        assert bare.result is None


async def test_many_in_one_exchange_and_in_order(world: World) -> None:
    """Unknown ones are None, each in its place; asked for twice, answered twice."""
    items = [done() for _ in range(20)]
    async with world.backend() as backend:
        await world.announce(*items)
        ids = [
            UNKNOWN,
            *(item.execution_id for item in reversed(items)),
            items[3].execution_id,
            "{fp:65535}:" + "0" * 32,
        ]
        found = await backend.describe_executions(ids)
        assert [None if s is None else s.execution_id for s in found] == [None, *ids[1:-1], None]
        # A few are asked for in another way.
        for some in (ids[:4], ids[-3:], [ids[2], ids[1], ids[2]]):
            told = await backend.describe_executions(some)
            assert told == [found[ids.index(id_)] for id_ in some]
        assert await backend.describe_executions([]) == []


async def test_a_malformed_id_is_refused_before_anything_is_sent() -> None:
    """Also where no server is."""
    for url in ("memory://", "valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x"):
        async with ffc.connect(url) as backend:
            with pytest.raises(ffc.Validation):
                await backend.describe_execution("nonsense")


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x"])
async def test_a_server_that_is_not_there(url: str) -> None:
    """Our error, in a bounded time."""
    async with ffc.connect(url, setup_timeout=3.0) as backend:
        with pytest.raises(ffc.EngineError):
            await backend.describe_execution(UNKNOWN)


async def test_a_closed_backend_says_so(world: World) -> None:
    """And leaves nothing on the server."""
    backend = world.backend()
    await backend.describe_execution(UNKNOWN)
    await backend.aclose()
    with pytest.raises(ffc.Unavailable, match="closed"):
        await backend.describe_execution(UNKNOWN)
    await eventually(partial(_nobody, world))


async def _nobody(world: World) -> bool:
    return await world.connections() == 0


async def test_streams_and_questions_share_a_backend(world: World) -> None:
    """Asked before, while and after a stream is open."""
    item = done()
    async with world.backend() as backend:
        await backend.describe_execution(UNKNOWN)
        async with ffc.subscribe(backend) as stream:
            await world.announce(item)
            assert (await anext(aiter(stream))).execution_id == item.execution_id
            assert await backend.describe_execution(item.execution_id) is not None
        assert await backend.describe_execution(item.execution_id) is not None
