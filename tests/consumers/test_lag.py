"""How far a consumer is behind, and whether the server can be asked: the same answers from every backend."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, eventually, first, some

NOWHERE = ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x"]
# What the worlds write for the time of an end.
LONG_AGO_S = time.time() - 1_700_000_000


def _buffered(stream: ffc.Subscription, count: int) -> bool:
    return stream.stats().buffered == count


async def test_a_stream_says_how_far_its_consumer_is_behind(world: World) -> None:
    """Nothing at first and at the end; in between what waits, also in the batch that is being handed out."""
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        assert stream.stats().lag == ffc.Lag(completions=0, seconds=0.0)
        await world.announce(*(done() for _ in range(5)))
        await eventually(lambda: _buffered(stream, 5))
        waiting = stream.stats().lag
        assert waiting.completions == 5
        assert waiting.seconds is not None
        if isinstance(world, PostgresWorld):
            assert waiting.seconds > LONG_AGO_S - 60
        else:
            assert waiting.seconds < 60
        await some(stream, 2)
        lag = stream.stats().lag
        assert lag.completions == 3
        assert lag.seconds is not None
        await some(stream, 3)
        assert stream.stats().lag == ffc.Lag()


async def test_waiting_makes_it_older(world: World) -> None:
    """Seconds grow while nothing is taken, whether the wire has a time or not."""
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        await world.announce(done(), done())
        await eventually(lambda: _buffered(stream, 2))
        before = stream.stats().lag.seconds
        assert before is not None
        await asyncio.sleep(0.02)
        after = stream.stats().lag.seconds
        assert after is not None
        assert after - before >= 0.015


async def test_what_is_stored_and_unread_counts(postgres: PostgresWorld) -> None:
    """A stream from the beginning is behind by all of it, before the first page is read."""
    await postgres.announce(*(done() for _ in range(20)))
    async with (
        postgres.backend() as backend,
        ffc.subscribe(backend) as ahead,
        ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream,
    ):
        assert stream.stats().lag.completions >= 20
        assert ahead.stats().lag.completions == 0
        await some(stream, 20)
        await eventually(lambda: not stream.stats().catching_up)
        assert stream.stats().lag == ffc.Lag()


async def test_what_overflowed_on_valkey_counts(valkey: ValkeyWorld) -> None:
    """What is still to be read from the index is behind too."""
    items = [done() for _ in range(40)]
    async with valkey.backend(buffer_size=4) as backend, ffc.subscribe(backend) as stream:
        for item in items:
            await valkey.finish(item)
        await eventually(lambda: stream.stats().overflows > 0 and stream.stats().lag.completions > 4)
        assert {completion.execution_id for completion in await some(stream, 40)} == {i.execution_id for i in items}
        await eventually(lambda: stream.stats().lag == ffc.Lag())


async def test_a_checkpointed_consumer_is_behind_by_what_it_has_not_done(tmp_path: Path) -> None:
    """In hand and in work count, done does not; outside its block there is nothing to tell."""
    async with MemoryBackend() as backend:
        worker = ffc.checkpointed(backend, ffc.FileCheckpoints(tmp_path / "c"), "w")
        with pytest.raises(ffc.Unavailable, match="async with"):
            _ = worker.lag
        async with worker as completions:
            assert completions.lag == ffc.Lag()
            hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000
            for number in range(3):
                backend.emit(done().execution_id, produced_at_ms=hour_ago_ms + number * 60_000)
            assert completions.lag.completions == 3
            await anext(completions)
            assert completions.lag.completions == 3
            assert 3_590 < (completions.lag.seconds or 0) < 3_700
            await anext(completions)
            assert completions.lag.completions == 2
            assert 3_530 < (completions.lag.seconds or 0) < 3_600
            await anext(completions)
            await completions.commit()
            assert completions.lag == ffc.Lag()


async def test_a_run_is_behind_by_what_is_in_work(tmp_path: Path) -> None:
    """Of three at once the oldest counts until it is done, whatever is done before it."""
    async with MemoryBackend() as backend:
        async with ffc.checkpointed(backend, ffc.FileCheckpoints(tmp_path / "c"), "w") as completions:
            gates = {done().execution_id: asyncio.Event() for _ in range(3)}

            async def work(completion: ffc.CompletionPayload) -> None:
                await gates[completion.execution_id].wait()

            running = asyncio.create_task(completions.run(work, concurrency=3))
            for execution_id in gates:
                backend.emit(execution_id)
            await eventually(lambda: completions.lag.completions == 3)
            ids = list(gates)
            gates[ids[1]].set()
            await eventually(lambda: completions.lag.completions == 2)
            gates[ids[0]].set()
            gates[ids[2]].set()
            await eventually(lambda: completions.lag == ffc.Lag())
            completions.stop()
            assert (await running).processed == 3


async def test_a_shared_stream_says_it_for_each_consumer() -> None:
    """The slow one is behind, the other is not."""
    async with MemoryBackend() as backend:
        source = await backend.subscribe_completions()
        async with ffc.broadcast(source, overflow="drop") as shared:
            slow, quick = await shared.subscribe_completions(), await shared.subscribe_completions()
            for _ in range(2):
                backend.emit(done().execution_id)
                await first(quick)
            assert quick.stats().lag == ffc.Lag()
            assert slow.stats().lag.completions == 2
            await slow.aclose()
            await quick.aclose()


async def test_a_server_that_answers(world: World) -> None:
    """With no stream open, and with one; nothing stays behind once the backend is closed."""
    backend = world.backend()
    async with backend:
        assert 0 <= await backend.ping() < 8
        async with ffc.subscribe(backend):
            assert 0 <= await backend.ping() < 8
    with pytest.raises(ffc.Unavailable, match="closed"):
        await backend.ping()
    await eventually(partial(_nobody, world))


async def _nobody(world: World) -> bool:
    return await world.connections() == 0


@pytest.mark.parametrize("url", NOWHERE)
async def test_a_server_that_is_not_there(url: str) -> None:
    """Our error, with the server's address."""
    async with ffc.connect(url, setup_timeout=3.0) as backend:
        with pytest.raises(ffc.EngineError, match=r"127\.0\.0\.1"):
            await backend.ping()


async def test_memory_fails_as_it_is_told() -> None:
    """So that a health check can be tested."""
    async with MemoryBackend() as backend:
        await backend.ping()
        backend.faults.disconnect()
        with pytest.raises(ffc.Transport):
            await backend.ping()
        backend.faults.recover()
        await backend.ping()


def test_for_code_that_blocks(tmp_path: Path) -> None:
    """The same, from a plain thread."""
    memory = MemoryBackend()
    with ffc.sync.Backend(memory) as backend:
        assert backend.ping() >= 0
        with backend.subscribe() as stream:
            memory.emit(done().execution_id)
            assert stream.stats().lag.completions == 1
            next(iter(stream))
            assert stream.stats().lag == ffc.Lag()
        with backend.checkpointed(ffc.FileCheckpoints(tmp_path / "c"), "w") as completions:
            memory.emit(done().execution_id)
            next(completions)
            assert completions.lag.completions == 1
