"""The log in memory: bounded, and written by any thread."""

from __future__ import annotations

import asyncio

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.worlds import done, some

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


async def test_retention_is_bounded_and_told() -> None:
    """Behind the log's end: the oldest pass by, counted."""
    async with MemoryBackend(retention=10) as backend, ffc.subscribe(backend) as stream:
        for number in range(25):
            backend.emit(ID, produced_at_ms=number)
        assert [(await stream.__anext__()).produced_at_ms for _ in range(10)] == list(range(15, 25))
        stats = stream.stats()
        assert (stats.lost, stats.overflows, stats.delivered) == (15, 1, 10)


async def test_emitting_on_another_thread() -> None:
    """While the stream is read: nothing skipped, nothing twice."""
    sent: list[str] = []
    async with MemoryBackend() as backend, ffc.subscribe(backend) as stream, asyncio.TaskGroup() as group:

        def emit() -> None:
            sent.extend(backend.emit(done().execution_id).execution_id for _ in range(20_000))

        group.create_task(asyncio.to_thread(emit))
        got = [completion.execution_id for completion in await some(stream, 20_000, 30)]
    assert got == sent
