"""What all waits on one backend share, and who lets go of it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers import watch
from tests.consumers.brief import UNKNOWN, Listens, brief, soon, tasks
from tests.worlds import ValkeyWorld, World, done, eventually


async def test_hundreds_of_waits_share(world: World) -> None:
    """One stream, and one exchange with the server at the start and at each tick."""
    items = [done() for _ in range(400)]
    async with brief(world) as backend:
        await asyncio.gather(*(world.begins(item) for item in items[:1]))
        if isinstance(world, ValkeyWorld):
            await world.command("CONFIG", "RESETSTAT")
        asked: list[int] = []
        real = backend.describe_executions

        async def counted(ids: Sequence[str], /, *, result: bool = False) -> Any:
            asked.append(len(ids))
            return await real(ids, result=result)

        backend.describe_executions = counted  # type: ignore[method-assign]  # the same
        waits = [
            asyncio.create_task(ffc.wait_for_completion(backend, item.execution_id, missing="wait", poll_interval=0.2))
            for item in items
        ]
        await eventually(lambda: bool(asked))
        began = time.monotonic()
        await eventually(lambda: len(asked) >= 4)
        ticks = (time.monotonic() - began) / (0.2 * 0.8)
        assert asked[0] == len(items)
        if isinstance(world, ValkeyWorld):
            # As the server counts: each look at an execution is one HMGET.
            stats = await world.command("INFO", "commandstats")
            text = stats.decode() if isinstance(stats, bytes) else str(stats)
            calls = int(text.partition("cmdstat_hmget:calls=")[2].partition(",")[0])
            assert len(items) <= calls <= len(items) * (ticks + 2)
        assert len(asked) - 1 <= ticks + 1
        assert backend.stats().streams == 1
        if world.networked:
            assert await world.connections() <= 3
        for item in items:
            await world.announce(item)
        found = await soon(asyncio.gather(*waits), 30)
        assert [c.execution_id for c in found] == [item.execution_id for item in items]
        await eventually(lambda: backend.stats().streams == 0)
    await eventually(lambda: not tasks())


async def test_closing_the_backend_ends_the_waits(world: World) -> None:
    """With our error, at once; not with a hang."""
    item = done()
    backend = world.backend()
    await world.begins(item)
    waiting = asyncio.create_task(ffc.wait_for_completion(backend, item.execution_id))
    await eventually(lambda: backend.stats().streams == 1)
    await asyncio.sleep(0.1)
    await backend.aclose()
    with pytest.raises(ffc.Unavailable, match="closed"):
        await soon(waiting)
    with pytest.raises(ffc.Unavailable, match="closed"):
        await soon(ffc.wait_for_completion(backend, item.execution_id))


class _ClosesSlowly(Listens):
    """Whose streams take their time to close."""

    linger = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.closing = asyncio.Event()
        self.go_on = asyncio.Event()

    @override
    async def _stream(self) -> AsyncIterator[ffc.CompletionPayload]:
        try:
            async for item in super()._stream():
                yield item
        finally:
            self.closing.set()
            await self.go_on.wait()


@pytest.mark.parametrize("linger", [0.0, 0.01])
async def test_who_begins_to_wait_while_the_last_one_lets_go(linger: float) -> None:
    """A stream that is being closed is nobody's to join, however long that takes."""
    backend: Any = _ClosesSlowly()
    backend.linger = linger
    id_ = ffc.ExecutionId(UNKNOWN)
    first = asyncio.create_task(ffc.wait_for_completion(backend, id_))
    await asyncio.sleep(0.05)
    backend.queue.put_nowait(ffc.CompletionPayload(id_, "success"))
    await soon(backend.closing.wait())
    second = asyncio.create_task(ffc.wait_for_completion(backend, id_))
    await asyncio.sleep(0.01)
    backend.go_on.set()
    assert (await soon(first)).outcome == "success"
    backend.queue.put_nowait(ffc.CompletionPayload(id_, "failed"))
    assert (await soon(second)).outcome == "failed"
    await eventually(lambda: not tasks())


class _Reads(Listens):
    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = list(answers)

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> Any:
        raise NotImplementedError

    async def describe_executions(self, execution_ids: Sequence[str], /, *, result: bool = False) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return [answer] * len(execution_ids)


RUNS = ffc.ExecutionSnapshot(execution_id=ffc.ExecutionId(UNKNOWN), phase="active")


ENDED = ffc.ExecutionSnapshot(
    execution_id=ffc.ExecutionId(UNKNOWN), phase="terminal", terminal_outcome="success", result=b"r"
)


async def test_a_read_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """One line for the change of state, however many ticks; a missing right is not waited out."""
    backend: Any = _Reads(RUNS, ffc.Transport("x"), ffc.Transport("x"), ffc.ResourceExhausted("x"), RUNS, ENDED)
    await soon(ffc.wait_for_completion(backend, UNKNOWN, poll_interval=0.01))
    assert [record.levelname for record in caplog.records if record.name == "ffcompletion.waiting"] == ["WARNING"]
    backend = _Reads(ffc.Unavailable("describe_execution", "no right"))
    with pytest.raises(ffc.Unavailable, match="no right"):
        await soon(ffc.wait_for_completion(backend, UNKNOWN))
    backend = _Reads(RuntimeError("a bug of theirs"))
    with pytest.raises(RuntimeError, match="bug of theirs"):
        await soon(ffc.wait_for_completion(backend, UNKNOWN))
    # What would end the asking in silence is no cancelling of the wait.
    for raised in asyncio.CancelledError(), SystemExit(3):
        backend = _Reads(raised)
        with pytest.raises(ffc.Unavailable, match=type(raised).__name__):
            await soon(ffc.wait_for_completion(backend, UNKNOWN))


async def test_outcome_and_result_are_of_one_read() -> None:
    """Announced, and replayed before the result could be read: it has not finished."""
    backend: Any = _Reads(RUNS)
    waiting = asyncio.create_task(ffc.wait_for_completion(backend, UNKNOWN, result=True, poll_interval=0.05))
    await asyncio.sleep(0.05)
    backend.queue.put_nowait(ffc.CompletionPayload(ffc.ExecutionId(UNKNOWN), "failed"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    backend.answers = [ENDED]
    found = await soon(waiting)
    assert (found.outcome, found.payload_bytes) == ("success", b"r")


async def test_announced_and_its_record_is_gone() -> None:
    """It has finished: that is the answer, without a result, and no "not found"."""
    backend: Any = _Reads(RUNS)
    waiting = asyncio.create_task(ffc.wait_for_completion(backend, UNKNOWN, result=True, poll_interval=3600))
    await asyncio.sleep(0.02)
    backend.answers = [None]
    backend.queue.put_nowait(ffc.CompletionPayload(ffc.ExecutionId(UNKNOWN), "failed"))
    found = await soon(waiting)
    assert (found.outcome, found.payload_bytes) == ("failed", None)


class _Deaf(ffc.CompletionBackend):
    @override
    async def subscribe_completions(self, /) -> Any:
        raise ffc.Transport("x", "nobody there")


async def test_an_unexpected_failure_of_one_wait_is_not_anothers() -> None:
    """A new wait opens a watch of its own, after one that failed."""
    backend = _Deaf()
    for _ in range(2):
        with pytest.raises(ffc.Transport, match="nobody there"):
            await ffc.wait_for_completion(backend, UNKNOWN)
    assert not watch._watches


async def test_a_wait_that_is_cancelled_at_any_point_leaves_no_stream() -> None:
    """Also between the stream's coming and its first use."""
    for turns in range(20):
        async with ffc.MemoryBackend() as backend:
            id_ = ffc.ExecutionId.new()
            backend.submit(id_)
            waiting = asyncio.ensure_future(ffc.wait_for_completion(backend, id_))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            await eventually(lambda backend=backend: backend.stats().streams == 0)
            gc.collect()


async def test_who_waits_for_very_many_holds_up_nobody() -> None:
    """Neither his first question nor his ticks are behind all of somebody's hundred thousand."""
    many = [f"{{fp:1}}:550e8400-e29b-41d4-a716-4466{n:08}" for n in range(60_000)]
    runs = f"{{fp:2}}:{UNKNOWN.partition('}:')[2]}"
    async with MemoryBackend() as backend:
        asked: list[Sequence[str]] = []
        real = backend.describe_executions

        async def slowly(ids: Sequence[str], /, *, result: bool = False) -> Any:
            asked.append(ids)
            await asyncio.sleep(0.01)
            return await real(ids, result=result)

        backend.describe_executions = slowly  # type: ignore[method-assign]  # the same
        crowd = asyncio.ensure_future(ffc.wait_for_all(backend, many, missing="wait", poll_interval=0.01))
        backend.emit(UNKNOWN)
        backend.submit(runs)
        await eventually(lambda: len(asked) > 1)
        asked.clear()
        await soon(ffc.wait_for_completion(backend, UNKNOWN, poll_interval=3600))
        assert len(asked) <= 3
        waiting = asyncio.ensure_future(ffc.wait_for_completion(backend, runs, poll_interval=0.05))
        asked.clear()
        await eventually(lambda: sum(runs in ids for ids in asked) == 6)
        assert len(asked) <= 60, "and not one look for each at all the others"
        for task in (crowd, waiting):
            task.cancel()
        await asyncio.wait([crowd, waiting])
