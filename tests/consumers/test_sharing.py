"""One stream for many consumers, and many consumers for one tenant."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers.sharing import Broadcast
from tests.worlds import World, done, first, some


def payloads(count: int) -> list[ffc.CompletionPayload]:
    return [ffc.CompletionPayload(ffc.ExecutionId(done().execution_id), "success") for _ in range(count)]


class Source:
    """A stream of somebody's: yields what it is given without ever waiting, then waits, or ends, or breaks."""

    def __init__(self, items: list[ffc.CompletionPayload], end: BaseException | None = None) -> None:
        self.items = list(items)
        self.end = end
        self.taken = 0
        self.closed = False
        self.more = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[ffc.CompletionPayload]:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        if self.items:
            self.taken += 1
            return self.items.pop(0)
        if self.end is None:
            await self.more.wait()
        raise self.end or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


async def test_everybody_gets_everything(world: World) -> None:
    """In order, each at its own pace; the source is closed with the block, and is one stream on the server."""
    items = [done() for _ in range(50)]
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        async with ffc.broadcast(stream, overflow="wait", buffer_size=100) as shared:
            ffc.assert_completion_backend(shared)
            consumers = [await shared.subscribe_completions() for _ in range(3)]
            await world.announce(*items)
            for consumer in consumers:
                assert [c.execution_id for c in await some(consumer, 50)] == [item.execution_id for item in items]
            assert backend.stats().streams == 1
        assert backend.stats().streams == 0
        for consumer in consumers:
            with pytest.raises(StopAsyncIteration):
                await first(consumer)


async def test_overflow_wait_holds_the_source() -> None:
    """The slowest sets the pace; nothing is lost; one that leaves is not waited for."""
    items = payloads(100)
    source = Source(items)
    async with ffc.broadcast(source, overflow="wait", buffer_size=10) as shared:
        quick, slow = await shared.subscribe_completions(), await shared.subscribe_completions()
        assert len(await some(quick, 10)) == 10
        await asyncio.sleep(0.05)
        assert source.taken == 11
        assert slow.stats().buffered == 10
        assert await some(slow, 5) == items[:5]
        assert await some(quick, 5) == items[10:15]
        await slow.aclose()
        assert await some(quick, 85) == items[15:]
        assert (quick.stats().delivered, quick.stats().lost) == (100, 0)
    assert source.closed


async def test_overflow_drop_loses_the_slow_ones_oldest() -> None:
    """Counted; the others lose nothing."""
    items = payloads(100)
    async with ffc.broadcast(Source(items), overflow="drop", buffer_size=10) as shared:
        quick, slow = await shared.subscribe_completions(), await shared.subscribe_completions()
        assert await some(quick, 100) == items
        assert await some(slow, 10) == items[-10:]
        assert (slow.stats().lost, slow.stats().overflows, quick.stats().lost) == (90, 90, 0)


async def test_overflow_fail_ends_the_slow_one() -> None:
    """After what it had; the others go on."""
    items = payloads(100)
    async with ffc.broadcast(Source(items), overflow="fail", buffer_size=10) as shared:
        quick, slow = await shared.subscribe_completions(), await shared.subscribe_completions()
        assert await some(quick, 100) == items
        assert await some(slow, 10) == items[:10]
        with pytest.raises(ffc.ResourceExhausted, match="10 completions"):
            await first(slow)


async def test_nothing_is_read_for_nobody() -> None:
    """The source waits for the first consumer, and for the next when the last has left."""
    items = payloads(10)
    source = Source(items)
    async with ffc.broadcast(source, overflow="wait", buffer_size=2) as shared:
        await asyncio.sleep(0.02)
        assert source.taken == 0
        early = await shared.subscribe_completions()
        assert await some(early, 2) == items[:2]
        await asyncio.sleep(0.02)
        # Two wait for the early one, who takes them with it; the fifth is in hand, for whoever comes next.
        assert (source.taken, early.stats().buffered) == (5, 2)
        await early.aclose()
        late = await shared.subscribe_completions()
        assert await some(late, 6) == items[4:]


@pytest.mark.parametrize("error", [None, ffc.Transport("x", "gone")])
async def test_the_sources_end_is_everybodys(error: Exception | None) -> None:
    """After what they still have; what it raised, they raise; later ones are refused."""
    items = payloads(3)
    async with ffc.broadcast(Source(items, error or StopAsyncIteration()), overflow="drop") as shared:
        one, other = await shared.subscribe_completions(), await shared.subscribe_completions()
        for consumer in (one, other):
            assert await some(consumer, 3) == items
            with pytest.raises(StopAsyncIteration if error is None else ffc.Transport):
                await first(consumer)
        with pytest.raises(ffc.Unavailable, match="ended"):
            await shared.subscribe_completions()


async def test_a_dropped_consumer_holds_nobody_up() -> None:
    """With a ResourceWarning, as any stream."""
    items = payloads(50)
    async with ffc.broadcast(Source(items), overflow="wait", buffer_size=10) as shared:
        kept, dropped = await shared.subscribe_completions(), await shared.subscribe_completions()
        with pytest.warns(ResourceWarning, match="unclosed broadcast stream"):
            del dropped
            gc.collect()
        assert await some(kept, 50) == items


async def test_bad_options_and_uses() -> None:
    """Named; filters are the source's own, and a filter is never ignored."""
    with pytest.raises(ffc.Validation, match="overflow"):
        ffc.broadcast(Source([]), overflow="perhaps")  # type: ignore[arg-type]  # the point
    with pytest.raises(ffc.Validation, match="buffer_size"):
        ffc.broadcast(Source([]), overflow="drop", buffer_size=0)
    shared = ffc.broadcast(Source([]), overflow="drop")
    with pytest.raises(ffc.Unavailable, match="not begun"):
        await shared.subscribe_completions()
    async with shared:
        with pytest.raises(ffc.Unavailable, match="filter"):
            await shared.subscribe_completions_filtered(ffc.ScannerFilter("a"))
    assert isinstance(shared, Broadcast)


async def test_waiting_on_a_broadcast() -> None:
    """It is a backend like any other: all of the consumers work on it."""
    items = payloads(3)
    async with ffc.broadcast(Source(items), overflow="wait") as shared:
        assert await ffc.wait_for_completion(shared, items[2].execution_id, timeout=5) == items[2]


async def test_partitions_share_the_work(world: World) -> None:
    """Three workers: together everything, each thing once."""
    items = [done() for _ in range(60)]
    async with world.backend() as backend:
        workers: list[Any] = []
        async with (
            ffc.subscribe(backend, partitions=range(0, 65_536, 3)) as one,
            ffc.subscribe(backend, partitions=range(1, 65_536, 3)) as two,
            ffc.subscribe(backend, partitions={n for n in range(256) if n % 3 == 2}) as three,
        ):
            workers += [one, two, three]
            await world.announce(*items)
            for number, worker in enumerate(workers):
                mine = [i.execution_id for i in items if ffc.ExecutionId(i.execution_id).partition % 3 == number]
                assert [c.execution_id for c in await some(worker, len(mine))] == mine


@pytest.mark.parametrize("partitions", [[], [-1], [65_536], range(0)])
async def test_partitions_that_cannot_be(partitions: Any) -> None:
    """Refused: an empty share would wait for ever."""
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="partitions"):
            async with ffc.subscribe(backend, partitions=partitions):
                pass
        assert backend.stats().streams == 0
