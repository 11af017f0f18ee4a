"""One worker's part of a stream: together the workers see everything, and each thing once."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers.shards import position_of, sharded
from ffcompletion.contract.protocols import Batched, CompletionStream, Subscription

IDS = [ffc.ExecutionId(f"{{fp:{n}}}:550e8400-e29b-41d4-a716-44665544{n:04}") for n in range(9)]


class Bare:
    """No more of a stream than the contract asks for."""

    def __init__(self) -> None:
        self.items = iter(IDS)
        self.closed = False

    def __aiter__(self) -> Bare:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        id_ = next(self.items, None)
        if id_ is None:
            raise StopAsyncIteration
        return ffc.CompletionPayload(id_, "success")

    async def aclose(self) -> None:
        self.closed = True


async def test_each_partition_is_one_workers() -> None:
    """As a range and as a set; and closing closes what is behind."""
    seen: list[str] = []
    for mine in (range(0, 65_536, 3), range(1, 65_536, 3), {2, 5, 8}):
        bare = Bare()
        part: CompletionStream = sharded(bare, mine)
        seen += [item.execution_id async for item in part]
        assert position_of(part) is None
        await part.aclose()
        assert bare.closed
    assert sorted(seen) == sorted(IDS)


async def test_what_is_passed_over_counts_as_filtered() -> None:
    """And the position is behind it."""
    async with MemoryBackend() as backend:
        stream = await backend.subscribe_completions()
        part = sharded(stream, {8})
        assert isinstance(part, Subscription)
        for id_ in IDS:
            backend.emit(id_)
        assert (await part.__anext__()).execution_id == IDS[8]
        stats = part.stats()
        assert (stats.delivered, stats.filtered) == (1, 8)
        assert part.cursor == stream.cursor
        assert repr(part) == "<1 partitions of <memory stream, live>>"
        await part.aclose()


async def test_a_batch_has_ones_own_alone() -> None:
    """They are counted as they are taken."""
    async with MemoryBackend() as backend:
        part = sharded(await backend.subscribe_completions(), {0, 8})
        assert isinstance(part, Batched)
        for id_ in IDS:
            backend.emit(id_)
        assert [item.execution_id for item in await part.next_batch()] == [IDS[0], IDS[8]]
        assert part.stats().filtered == 7
        await part.aclose()
