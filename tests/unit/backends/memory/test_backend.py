"""The backend in memory, used from other threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.worlds import done, first


async def test_memory_wakes_whoever_waits_whatever_thread_emits() -> None:
    """One at a time, each while the consumer goes to sleep: none lies there unseen."""
    taken = threading.Semaphore(0)
    async with MemoryBackend() as backend, ffc.subscribe(backend) as stream:

        def emit() -> None:
            for _ in range(500):
                backend.emit(done().execution_id)
                assert taken.acquire(timeout=30)

        emitting = asyncio.create_task(asyncio.to_thread(emit))
        for _ in range(500):
            await first(stream, 30)
            taken.release()
        await emitting


async def test_memory_closed_on_another_thread_ends_its_streams() -> None:
    """Those that wait, too."""
    backend = MemoryBackend()
    stream = await backend.subscribe_completions()
    waiting = asyncio.create_task(first(stream, 30))
    await asyncio.sleep(0)
    await asyncio.to_thread(asyncio.run, backend.aclose())
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), RuntimeError | StopAsyncIteration)


def test_memory_says_what_it_runs_on() -> None:
    """Without an asyncio loop; and nothing is left open."""
    backend = MemoryBackend()
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        backend.subscribe_completions().send(None)
    assert backend.stats().streams == 0
