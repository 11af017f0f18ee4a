"""The backend in memory: what is emitted, resumed and refused, also from other threads."""

from __future__ import annotations

import asyncio
import os
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


ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"


async def test_memory_what_was_submitted_holds_unless_it_is_said_anew() -> None:
    """For the completion that ends it, and the filters that decide about that; not for one of a later run."""
    async with MemoryBackend() as backend, ffc.subscribe(backend, ffc.ScannerFilter("a", ("k", "v"))) as stream:
        backend.submit(ID, namespace="a", tags={"k": "v"}, flow_id=FLOW)
        assert backend.emit(ID).flow_id == FLOW
        assert (await first(stream)).execution_id == ID
        assert await backend.flow_members(FLOW) == [ID]
        backend.emit(ID)
        backend.submit(ID, namespace="a", tags={"k": "v"})
        backend.emit(ID, namespace="b")
        found = await backend.describe_execution(ID)
        assert found is not None
        assert (found.namespace, dict(found.tags)) == ("b", {"k": "v"})
        backend.emit(ID, "failed", namespace="a", tags={"k": "v"})
        assert (await first(stream)).outcome == "failed"
        assert await backend.flow_members(FLOW) == []


async def test_memory_a_position_is_this_log_s() -> None:
    """Another's is refused, one beyond its end, and one of an outbox; at the end and at the beginning are anybody's."""
    async with MemoryBackend() as backend, MemoryBackend() as other:
        emitted = [backend.emit(done().execution_id) for _ in range(3)]
        foreign = [other.emit(done().execution_id).cursor for _ in range(9)]
        for cursor in (foreign[0], foreign[-1], ffc.StreamCursor.outbox(1)):
            assert cursor is not None
            with pytest.raises(ffc.Validation, match="does not belong"):
                await backend.subscribe_completions_from(cursor)
        for cursor, left in ((ffc.StreamCursor.beginning(), 3), (emitted[0].cursor, 2), (ffc.StreamCursor.empty(), 0)):
            async with ffc.subscribe(backend, cursor=cursor) as stream:
                assert stream.stats().buffered == left
        assert backend.stats().streams == 0


async def test_memory_closed_refuses_everything() -> None:
    """Also what has nothing to do with streams."""
    backend = MemoryBackend()
    await backend.aclose()
    for refused in (backend.emit, backend.submit):
        with pytest.raises(ffc.Unavailable, match="closed"):
            refused(ID)
    for question in (
        backend.describe_execution(ID), backend.flow_members(FLOW), backend.ping(), backend.subscribe_completions(),
        backend.subscribe_completions_from(ffc.StreamCursor.beginning()),
    ):  # fmt: skip
        with pytest.raises(ffc.Unavailable, match="closed"):
            await question


async def test_memory_in_a_child_process_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent emits is not in the child's memory: its streams would wait for ever."""
    backend = MemoryBackend()
    parent = os.getpid()
    monkeypatch.setattr("ffcompletion.backends.memory.backend.os.getpid", lambda: parent + 1)
    with pytest.raises(ffc.Unavailable, match="fork"):
        await backend.subscribe_completions()


async def test_memory_tells_its_states() -> None:
    """Each change once: with the first stream and the last, as the connection goes and comes, and at the end."""
    states: list[ffc.BackendState] = []
    backend = MemoryBackend(observer=lambda event: states.append(event.state))
    async with ffc.subscribe(backend):
        async with ffc.subscribe(backend):
            pass
        backend.faults.disconnect()
        backend.faults.reconnect()
    backend.faults.disconnect()
    backend.faults.reconnect()
    await backend.aclose()
    await backend.aclose()
    told = ffc.BackendState
    assert states == [told.LIVE, told.RECONNECTING, told.LIVE, told.IDLE, told.CLOSED]
