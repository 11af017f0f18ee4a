"""What a loop has in hand is processed when the next is asked for, and in no other way: neither left, nor beside another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

import ffcompletion as ffc
from tests.worlds import done

BEGINNING = ffc.StreamCursor.beginning()


@pytest.fixture
async def backend() -> AsyncGenerator[ffc.MemoryBackend]:
    async with ffc.MemoryBackend() as backend:
        yield backend


@pytest.fixture
def store(tmp_path: Path) -> ffc.FileCheckpoints:
    return ffc.FileCheckpoints(tmp_path / "checkpoint")


def emitted(backend: ffc.MemoryBackend, count: int) -> list[ffc.ExecutionId]:
    return [backend.emit(done().execution_id).execution_id for _ in range(count)]


async def test_what_a_loop_had_in_hand_when_it_was_left_comes_again_in_the_next(
    backend: ffc.MemoryBackend, store: ffc.FileCheckpoints
) -> None:
    """By an error as by a break, also where that is in the same block: nothing is skipped because it failed once."""
    ids, tried = emitted(backend, 4), list[ffc.ExecutionId]()
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
        while len(tried) < 6:
            try:
                async for completion in completions:
                    tried.append(completion.execution_id)
                    if len(tried) in {2, 5}:
                        raise ZeroDivisionError
                    if len(tried) == 6:
                        break
            except ZeroDivisionError:
                continue
    assert tried == [ids[0], ids[1], ids[1], ids[2], ids[3], ids[3]]
    async with ffc.checkpointed(backend, store, "a") as completions:
        assert (await anext(completions)).execution_id == ids[3]


async def test_committed_it_does_not(backend: ffc.MemoryBackend, store: ffc.FileCheckpoints) -> None:
    """Neither right after it, nor when the next loop has begun."""
    ids = emitted(backend, 3)
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
        for begin_first in (False, True):
            async for _ in completions:
                break
            if begin_first:
                aiter(completions)
            await completions.commit()
        async for completion in completions:
            assert completion.execution_id == ids[2]
            break


async def test_a_run_begins_with_it(backend: ffc.MemoryBackend, store: ffc.FileCheckpoints) -> None:
    """Or the position would stay behind it."""
    ids, handled = emitted(backend, 3), list[ffc.ExecutionId]()
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
        async for _ in completions:
            break

        async def handle(completion: ffc.CompletionPayload) -> None:
            handled.append(completion.execution_id)
            if len(handled) == 3:
                completions.stop()

        ran = await completions.run(handle, concurrency=2)
    assert handled == ids
    assert ran.processed == 3
    assert ran.cursor is not None
    assert ran.cursor.stream_position is not None
    assert ran.cursor.stream_position[1] == 3


async def test_two_tasks_do_not_take_each_other_s_for_processed(
    backend: ffc.MemoryBackend, store: ffc.FileCheckpoints
) -> None:
    """The second is told, rather than the first one's completion be lost should it fail."""
    ids = emitted(backend, 3)
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
        has_one, failing = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            async for _ in completions:
                has_one.set()
                await failing.wait()
                raise ZeroDivisionError

        first = asyncio.create_task(slow())
        await has_one.wait()
        with pytest.raises(ffc.Unavailable, match="another task has a completion in hand"):
            async for _ in completions:
                pass
        with pytest.raises(ffc.Unavailable, match="another task"):
            await anext(completions)
        with pytest.raises(ffc.Unavailable, match="another task"):
            await completions.run(lambda _: asyncio.sleep(0))
        failing.set()
        with pytest.raises(ZeroDivisionError):
            await first
        # Now it may, and begins with what the other left.
        async for completion in completions:
            assert completion.execution_id == ids[0]
            break


async def test_each_may_be_asked_for_by_a_task_of_its_own(
    backend: ffc.MemoryBackend, store: ffc.FileCheckpoints
) -> None:
    """As some ways of waiting with a time-out do it."""
    ids = emitted(backend, 3)
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
        for id_ in ids:
            asked = asyncio.ensure_future(anext(completions))
            assert (await asyncio.wait_for(asked, 5)).execution_id == id_
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(completions), 0.01)
    async with ffc.checkpointed(backend, store, "a") as completions:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(completions), 0.01)


async def test_what_comes_as_it_is_stopped_is_left_for_next_time(
    backend: ffc.MemoryBackend, store: ffc.FileCheckpoints
) -> None:
    """It is not handed out, and the position stays behind it."""
    handled: list[ffc.ExecutionId] = []
    async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:

        async def handle(completion: ffc.CompletionPayload) -> None:
            handled.append(completion.execution_id)

        running = asyncio.create_task(completions.run(handle))
        await asyncio.sleep(0.02)
        (id_,) = emitted(backend, 1)
        completions.stop(drain=False)
        assert (await running).processed == len(handled) == 0
    async with ffc.checkpointed(backend, store, "a") as completions:
        assert (await anext(completions)).execution_id == id_


async def test_a_block_begins_once(backend: ffc.MemoryBackend, store: ffc.FileCheckpoints) -> None:
    """Rather than that its first stream stays open behind the second."""
    completions = ffc.checkpointed(backend, store, "a")
    async with completions:
        with pytest.raises(ffc.Unavailable, match="has begun before"):
            async with completions:
                pass
    with pytest.raises(ffc.Unavailable, match="has begun before"):
        async with completions:
            pass
    assert backend.stats().streams == 0


def used_up() -> Iterator[int]:
    return iter([1, 2, 3])


@pytest.mark.parametrize("partitions", [(), ["1"], "12", 7, [1.5, 2], [70_000], [-1], used_up()])
async def test_partitions_that_cannot_be(
    partitions: list[int], backend: ffc.MemoryBackend, store: ffc.FileCheckpoints
) -> None:
    """The same answer from all that take them."""
    with pytest.raises(ffc.Validation, match="partitions"):
        async with ffc.subscribe(backend, partitions=partitions):
            pass
    with pytest.raises(ffc.Validation, match="partitions"):
        ffc.checkpointed(backend, store, "a", partitions=partitions)


def test_the_same_for_code_that_blocks(tmp_path: Path) -> None:
    """A loop that was left is begun with what it had in hand."""
    inner = ffc.MemoryBackend()
    ids = emitted(inner, 4)
    store = ffc.FileCheckpoints(tmp_path / "checkpoint")
    with ffc.sync.Backend(inner) as backend:
        with backend.checkpointed(store, "a", start=BEGINNING) as completions:
            got = [[item.execution_id for item in itertools.islice(completions, 2)] for _ in range(2)]
            completions.commit()
            got.append([next(completions).execution_id])
        assert got == [ids[:2], ids[1:3], ids[3:]]
