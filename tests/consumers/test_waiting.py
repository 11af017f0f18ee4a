"""Waiting for particular executions: every way one can finish, on every backend; none hangs, nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers import watch
from tests.consumers.brief import UNKNOWN, Listens, brief, soon, tasks
from tests.worlds import Done, World, done, eventually, member

NOWHERE = ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "memory://"]


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


@pytest.mark.parametrize("several", [False, True])
async def test_what_is_known_when_the_time_is_up_is_not_late(several: bool) -> None:
    """The end and the time-out, in one turn of a busy loop: it was ``IndexError``."""
    loop = asyncio.get_running_loop()
    async with MemoryBackend() as backend:
        ids = [f"{{fp:7}}:550e8400-e29b-41d4-a716-4466554400{n:02}" for n in range(1 + several)]
        for id_ in ids:
            backend.submit(id_)
        answers = ffc.as_completed(backend, ids, timeout=0.2, poll_interval=3600)
        waiting = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0.05)
        loop.call_later(0.01, time.sleep, 0.3)
        loop.call_later(0.05, backend.emit, ids[0])
        assert (await waiting).execution_id == ids[0]
        if several:
            with pytest.raises(TimeoutError, match=r"1 of 2 executions have not finished within 0\.2 s"):
                await anext(answers)
        await answers.aclose()


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


async def test_a_backend_that_can_only_be_listened_to() -> None:
    """Its stream answers; results and flows are refused, and an end of its stream is no hang."""
    backend: Any = Listens()
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
    backend: Any = Listens()
    id_ = ffc.ExecutionId(UNKNOWN)
    backend.queue.put_nowait(ffc.CompletionPayload(id_, "success"))
    assert (await ffc.wait_for_completion(backend, id_, timeout=5)).outcome == "success"
    await eventually(lambda: not tasks())
