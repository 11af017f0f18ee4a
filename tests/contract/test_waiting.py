"""Waiting for particular executions: every way one can finish, on every backend; none hangs, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.consumers import watch
from tests.worlds import Done, ValkeyWorld, World, done, eventually, member

UNKNOWN = "{fp:9}:550e8400-e29b-41d4-a716-446655440099"
NOWHERE = ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "memory://"]


async def soon(coroutine: Any, seconds: float = 30.0) -> Any:
    return await asyncio.wait_for(coroutine, seconds)


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ffcompletion")}


def brief(world: World) -> ffc.Backend:
    """A stream stays for the next wait but for a moment: for tests that wait for its end."""
    return world.backend(**({"linger": 0.1} if world.networked else {}))


async def test_one_that_finished_before(world: World) -> None:
    """Answered at once, from the stored state; the result where it is asked for."""
    item = done(outcome="failed", result=b"\x00r")
    async with world.backend() as backend:
        await world.begins(item)
        await world.ends(item)
        found = await soon(ffc.wait_for_completion(backend, item.execution_id))
        assert (found.execution_id, found.outcome, found.kind) == (item.execution_id, "failed", ffc.Outcome.FAILED)
        assert found.payload_bytes is None
        assert found.produced_at_ms > 0
        found = await soon(ffc.wait_for_completion(backend, item.execution_id, result=True))
        assert (found.outcome, found.payload_bytes) == ("failed", item.result)
    await eventually(lambda: not tasks())


@pytest.mark.parametrize("result", [False, True])
async def test_one_that_finishes_later(world: World, result: bool) -> None:
    """By its announcement: long before the state is read again."""
    item = done(result=b"r")
    async with brief(world) as backend:
        await world.begins(item)
        waiting = asyncio.create_task(
            ffc.wait_for_completion(backend, item.execution_id, poll_interval=3600, result=result)
        )
        await eventually(lambda: backend.stats().streams == 1)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await world.ends(item)
        found = await soon(waiting)
        assert (found.execution_id, found.outcome) == (item.execution_id, "success")
        assert found.payload_bytes == (item.result if result else None)
        await eventually(lambda: not tasks())
        assert backend.stats().streams == 0


async def test_one_that_finishes_between_subscribing_and_reading(world: World) -> None:
    """The announcement and the read race; either answers, once."""
    item = done()
    async with world.backend() as backend:
        await world.begins(item)
        real = backend.describe_executions

        async def slow(ids: Sequence[str], /, *, result: bool = False) -> Any:
            found = await real(ids, result=result)
            await world.ends(item)
            return found

        backend.describe_executions = slow  # type: ignore[method-assign]  # put in between
        found = await soon(ffc.wait_for_completion(backend, item.execution_id, poll_interval=3600))
        assert found.execution_id == item.execution_id


@pytest.mark.parametrize("outcome", ["success", "failed", "cancelled"])
async def test_one_that_is_never_announced(world: World, outcome: str) -> None:
    """Solo, reclaim cap (failed), cancelled without a row: the next tick finds it."""
    item = done(outcome=outcome, flow_id=None)
    async with world.backend() as backend:
        await world.begins(item)
        waiting = asyncio.create_task(ffc.wait_for_completion(backend, item.execution_id, poll_interval=0.2))
        await eventually(lambda: backend.stats().streams == 1)
        await world.ends(item, silently=True)
        found = await soon(waiting)
        # Postgres has no word for a success without a row; it never happens there.
        assert found.outcome == outcome or (outcome == "success" and world.name.startswith("postgres"))


async def test_one_that_is_replayed_and_finishes_again(world: World) -> None:
    """While it runs again it has not finished; then it is the second outcome that counts."""
    item = done(outcome="failed")
    async with world.backend() as backend:
        await world.begins(item)
        await world.ends(item)
        await world.begins(item)
        with pytest.raises(TimeoutError, match=r"has not finished within 0\.3 s"):
            await ffc.wait_for_completion(backend, item.execution_id, timeout=0.3, poll_interval=0.1)
        waiting = asyncio.create_task(ffc.wait_for_completion(backend, item.execution_id))
        await eventually(lambda: backend.stats().streams == 1)
        await world.ends(Done(execution_id=item.execution_id, outcome="skipped"))
        assert (await soon(waiting)).outcome == "skipped"


async def test_an_unknown_id(world: World) -> None:
    """Not found; or waited for until it is there."""
    item = done()
    async with world.backend() as backend:
        with pytest.raises(ffc.NotFound, match="execution"):
            await soon(ffc.wait_for_completion(backend, UNKNOWN))
        waiting = asyncio.create_task(
            ffc.wait_for_completion(backend, item.execution_id, missing="wait", poll_interval=0.1)
        )
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await world.begins(item)
        await world.ends(item, silently=True)
        await soon(waiting)


@pytest.mark.parametrize("url", NOWHERE)
async def test_malformed_ids_are_refused_before_anything_is_sent(url: str) -> None:
    """Also where no server is; so are options that cannot be."""
    async with ffc.connect(url) as backend:
        with pytest.raises(ffc.Validation):
            await ffc.wait_for_completion(backend, "nonsense")
        with pytest.raises(ffc.Validation):
            ffc.as_completed(backend, [UNKNOWN, "nonsense"])
        with pytest.raises(ffc.Validation):
            await ffc.wait_for_flow(backend, "nonsense")
        with pytest.raises(ffc.Validation, match="poll_interval"):
            await ffc.wait_for_completion(backend, UNKNOWN, poll_interval=0)
        with pytest.raises(ffc.Validation, match="timeout"):
            await ffc.wait_for_completion(backend, UNKNOWN, timeout=-1)
        with pytest.raises(ffc.Validation, match="missing"):
            await ffc.wait_for_completion(backend, UNKNOWN, missing="perhaps")  # type: ignore[arg-type]  # the point
    await eventually(lambda: not tasks())


@pytest.mark.parametrize("url", NOWHERE[:2])
async def test_a_server_that_is_not_there_is_said_to_all(url: str) -> None:
    """A hundred waits get the one failure of the one attempt."""
    async with ffc.connect(url, setup_timeout=3.0) as backend:
        began = time.monotonic()
        waits = [ffc.wait_for_completion(backend, UNKNOWN) for _ in range(100)]
        errors = await soon(asyncio.gather(*waits, return_exceptions=True))
        assert all(isinstance(error, ffc.EngineError) for error in errors)
        assert time.monotonic() - began < 60, "one after the other would take minutes"
    await eventually(lambda: not tasks())


async def test_as_completed(world: World) -> None:
    """Finished ones first, then as they finish; one that is given twice once; the order of the others is theirs."""
    items = [done() for _ in range(6)]
    async with brief(world) as backend:
        for item in items:
            await world.begins(item)
        await world.ends(items[3])
        ids = [item.execution_id for item in items]
        answers = ffc.as_completed(backend, [*ids, ids[0]], timeout=20)
        assert (await anext(answers)).execution_id == ids[3]
        for number in (5, 0, 2, 1, 4):
            await world.ends(items[number])
            assert (await soon(anext(answers))).execution_id == ids[number]
        with pytest.raises(StopAsyncIteration):
            await anext(answers)
        await eventually(lambda: not tasks())
        assert [c async for c in ffc.as_completed(backend, [])] == []


async def test_as_completed_in_time_and_too_late(world: World) -> None:
    """What had finished is yielded before the time-out is raised; a consumer's own time counts, but interrupts nothing."""
    items = [done(), done(), done()]
    async with brief(world) as backend:
        for item in items:
            await world.begins(item)
        await world.ends(items[0])
        got: list[str] = []
        with pytest.raises(TimeoutError, match="1 of 3 executions"):
            async for completion in ffc.as_completed(
                backend, [item.execution_id for item in items], timeout=1.0, poll_interval=0.1
            ):
                got.append(completion.execution_id)
                if len(got) == 1:
                    await world.ends(items[1])
                    await asyncio.sleep(1.2)
        assert got == [items[0].execution_id, items[1].execution_id]
        await eventually(lambda: not tasks())


async def test_wait_for_all(world: World) -> None:
    """By id, in the order given."""
    items = [done(outcome=outcome) for outcome in ("success", "failed", "expired")]
    async with world.backend() as backend:
        for item in items:
            await world.begins(item)
        waiting = asyncio.create_task(ffc.wait_for_all(backend, [item.execution_id for item in items], timeout=20))
        await eventually(lambda: backend.stats().streams == 1)
        for item in reversed(items):
            await world.ends(item)
        found = await soon(waiting)
        assert [(id_, completion.outcome) for id_, completion in found.items()] == [
            (item.execution_id, item.outcome) for item in items
        ]


async def test_wait_for_all_answers_by_the_very_ids_that_were_given() -> None:
    """As text or as an id, once each; whoever gave texts finds them again."""
    one, other = (ffc.ExecutionId(done().execution_id) for _ in range(2))
    async with ffc.MemoryBackend() as backend:
        for id_ in (one, other):
            backend.emit(id_)
        by_text = await ffc.wait_for_all(backend, [str(other), str(one), str(other)], timeout=5)
        assert [(type(id_), id_, completion.execution_id) for id_, completion in by_text.items()] == [
            (str, other, other),
            (str, one, one),
        ]
        assert by_text[str(one)] is by_text[one]
        by_id = await ffc.wait_for_all(backend, {one: 1, other: 2}, timeout=5)
        assert [type(id_) for id_ in by_id] == [ffc.ExecutionId] * 2
        with pytest.raises(ffc.Validation):
            await ffc.wait_for_all(backend, [one, "nonsense"])


def looks_of(backend: ffc.Backend) -> Callable[[], Awaitable[None]]:
    """To be awaited: until whoever waits has looked anew at what is stored, from the beginning of it to its end."""
    looks = 0
    members, describe = backend.flow_members, backend.describe_executions

    async def counted_members(flow_id: str, /) -> Any:
        nonlocal looks
        looks += 1
        return await members(flow_id)

    async def counted(ids: Sequence[str], /, *, result: bool = False) -> Any:
        nonlocal looks
        looks += 1
        return await describe(ids, result=result)

    backend.flow_members = counted_members  # type: ignore[method-assign]  # the same
    backend.describe_executions = counted  # type: ignore[method-assign]  # the same

    async def looked() -> None:
        # The one that is under way does not count; nor does the next, where one asks for members and one for states.
        enough = looks + 5
        await eventually(lambda: looks >= enough)

    return looked


async def test_wait_for_flow(world: World) -> None:
    """All members, one that joins while others run, one that is replayed meanwhile."""
    flow = "550e8400-e29b-41d4-a716-446655440000"
    items = [member(flow) for _ in range(3)]
    late = member(flow, outcome="failed")
    async with world.backend() as backend:
        with pytest.raises(ffc.NotFound, match="flow"):
            await soon(ffc.wait_for_flow(backend, flow))
        looked = looks_of(backend)
        await world.joins(flow, *items)
        waiting = asyncio.create_task(ffc.wait_for_flow(backend, flow, poll_interval=0.1))
        await world.ends(items[0])
        await world.ends(items[1])
        await looked()
        await world.begins(items[0])
        await world.joins(flow, late)
        await looked()
        await world.ends(items[2])
        await world.ends(late)
        await looked()
        assert not waiting.done()
        await world.ends(items[0])
        found = await soon(waiting)
        assert {id_: completion.outcome for id_, completion in found.items()} == {
            **{item.execution_id: "success" for item in items},
            late.execution_id: "failed",
        }
        assert (await soon(ffc.wait_for_flow(backend, flow))).keys() == found.keys()
    await eventually(lambda: not tasks())


async def test_a_flow_that_is_yet_to_be_made(world: World) -> None:
    """Waited for, where that is asked for; a time-out says which."""
    flow = "22222222-2222-4222-8222-222222222222"
    item = member(flow)
    async with world.backend() as backend:
        with pytest.raises(TimeoutError, match=flow):
            await ffc.wait_for_flow(backend, flow, missing="wait", timeout=0.3, poll_interval=0.1)
        waiting = asyncio.create_task(ffc.wait_for_flow(backend, flow, missing="wait", poll_interval=0.1))
        await asyncio.sleep(0.2)
        await world.joins(flow, item)
        await world.ends(item)
        assert list(await soon(waiting)) == [item.execution_id]


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


async def test_thousands_of_ids(world: World) -> None:
    """In one as_completed; every one answered once."""
    items = [done() for _ in range(4_000)]
    ids = {item.execution_id for item in items}
    async with brief(world) as backend:
        for item in items[:50]:
            await world.announce(item)
        got: set[str] = set()
        async for completion in ffc.as_completed(backend, ids, missing="wait", timeout=40):
            got.add(completion.execution_id)
            if len(got) == 50:
                break
        assert got == {item.execution_id for item in items[:50]}
        await eventually(lambda: not tasks())


async def test_cancelled_waits_leave_nothing(world: World) -> None:
    """In every phase: while subscribing, while reading, while waiting; the others go on."""
    items = [done() for _ in range(40)]
    async with brief(world) as backend:
        for item in items:
            await world.begins(item)
        waits = [asyncio.create_task(ffc.wait_for_completion(backend, item.execution_id)) for item in items]
        for number, wait in enumerate(waits[:-1]):
            await asyncio.sleep(0.002 * (number % 4))
            wait.cancel()
        assert all(
            isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*waits[:-1], return_exceptions=True)
        )
        await world.ends(items[-1])
        assert (await soon(waits[-1])).execution_id == items[-1].execution_id
        await eventually(lambda: backend.stats().streams == 0)
        await eventually(lambda: not watch._watches)
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


class _Listens:
    """Somebody's backend: no reader, one generator per stream."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ffc.CompletionPayload | None] = asyncio.Queue()

    async def subscribe_completions(self, /) -> AsyncIterator[ffc.CompletionPayload]:
        return self._stream()

    async def subscribe_completions_filtered(
        self, filter: ffc.CompletionFilter, /
    ) -> AsyncIterator[ffc.CompletionPayload]:
        raise ffc.Unavailable("subscribe_completions_filtered")

    async def _stream(self) -> AsyncIterator[ffc.CompletionPayload]:
        while (item := await self.queue.get()) is not None:
            yield item


async def test_a_backend_that_can_only_be_listened_to() -> None:
    """Its stream answers; results and flows are refused, and an end of its stream is no hang."""
    backend: Any = _Listens()
    id_ = ffc.ExecutionId(UNKNOWN)
    waiting = asyncio.create_task(ffc.wait_for_completion(backend, id_))
    await asyncio.sleep(0.05)
    backend.queue.put_nowait(ffc.CompletionPayload(id_, "success", b"x"))
    found = await soon(waiting)
    assert (found.outcome, found.payload_bytes) == ("success", None)
    with pytest.raises(ffc.Unavailable, match="results"):
        await ffc.wait_for_completion(backend, id_, result=True)
    with pytest.raises(ffc.Unavailable, match="flow"):
        await ffc.wait_for_flow(backend, "550e8400-e29b-41d4-a716-446655440000")
    backend.queue.put_nowait(None)
    with pytest.raises(ffc.Unavailable, match="ended its stream"):
        await soon(ffc.wait_for_completion(backend, id_))


async def test_what_a_stream_yields_first_is_news_too() -> None:
    """Without a turn of the loop between the subscription and it: whoever waits is on the list by then."""
    backend: Any = _Listens()
    id_ = ffc.ExecutionId(UNKNOWN)
    backend.queue.put_nowait(ffc.CompletionPayload(id_, "success"))
    assert (await ffc.wait_for_completion(backend, id_, timeout=5)).outcome == "success"
    await eventually(lambda: not tasks())


class _ClosesSlowly(_Listens):
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


class _Reads(_Listens):
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
