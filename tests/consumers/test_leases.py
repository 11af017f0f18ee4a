"""``checkpointed``: stopped from outside, items that keep failing, one consumer for a name, positions that outlive refactoring."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresCheckpoints
from tests.consumers.keeping import BEGINNING, ID, emitted, stored
from tests.worlds.forking import Interpreter


async def test_run_is_stopped_from_outside_and_drains(store: ffc.FileCheckpoints) -> None:
    """What is in work ends, nothing more begins, the position is stored, and the backend goes on."""
    begun: list[str] = []
    go_on = asyncio.Event()

    async def handler(completion: ffc.CompletionPayload) -> None:
        begun.append(completion.execution_id)
        await go_on.wait()

    async with MemoryBackend() as backend:
        items = emitted(backend, 10)
        async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
            running = asyncio.create_task(completions.run(handler, concurrency=3))
            while len(begun) < 3:
                await asyncio.sleep(0)
            completions.stop()
            completions.stop()
            await asyncio.sleep(0.01)
            assert not running.done()
            go_on.set()
            done = await running
            assert done == ffc.Processed(processed=3, failed=0, cursor=items[2].cursor)
            assert await stored(store) == items[2].cursor
            # It stays stopped.
            assert (await completions.run(handler)).processed == 0
            with pytest.raises(StopAsyncIteration):
                await anext(completions)
        assert backend.stats().state is not ffc.BackendState.CLOSED
        async with ffc.checkpointed(backend, store, "a") as completions:
            assert (await anext(completions)).execution_id == items[3].execution_id


async def test_a_stop_that_does_not_drain_leaves_what_is_in_work_for_next_time(store: ffc.FileCheckpoints) -> None:
    """It is cancelled, and counts as not processed."""
    begun = asyncio.Event()

    async def handler(completion: ffc.CompletionPayload) -> None:
        if completion.execution_id != ID % 0:
            begun.set()
            await asyncio.Event().wait()

    async with MemoryBackend() as backend:
        items = emitted(backend, 5)
        async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
            running = asyncio.create_task(completions.run(handler))
            await begun.wait()
            completions.stop(drain=False)
            assert await running == ffc.Processed(processed=1, failed=0, cursor=items[0].cursor)
        async with ffc.checkpointed(backend, store, "a") as completions:
            assert (await anext(completions)).execution_id == items[1].execution_id


async def test_a_stop_before_the_work_s_first_step(store: ffc.FileCheckpoints) -> None:
    """Whoever was to wait for its place does not wait for ever."""
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(MemoryBackend())
        completions = await stack.enter_async_context(ffc.checkpointed(backend, store, "a", start=BEGINNING))
        emitted(backend, 2)

        async def handler(_: ffc.CompletionPayload) -> None:
            raise AssertionError

        def factory(loop: asyncio.AbstractEventLoop, work: Any, /, **options: Any) -> asyncio.Task[Any]:
            if "work" in work.__qualname__:
                # It is called in the turn of the loop in which the work would begin, and ahead of it.
                loop.call_soon(partial(completions.stop, drain=False))
            # uvloop names a context.
            return asyncio.Task(work, loop=loop, **options)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            async with asyncio.timeout(20):
                done = await completions.run(handler)
        finally:
            loop.set_task_factory(None)
        assert done.processed == 0
        async with ffc.checkpointed(backend, store, "a") as again:
            assert (await anext(again)).execution_id == ID % 0


async def test_stopping_wakes_whoever_waits_for_the_next(store: ffc.FileCheckpoints) -> None:
    """A loop, and a run that has nothing to do; also by a signal."""

    async def nothing(_: ffc.CompletionPayload) -> None:
        raise AssertionError

    async with MemoryBackend() as backend:
        async with ffc.checkpointed(backend, store, "a") as completions:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, completions.stop)
            running = asyncio.create_task(completions.run(nothing))
            await asyncio.sleep(0.01)
            signal.raise_signal(signal.SIGUSR1)
            assert (await running).processed == 0
            asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
        async with ffc.checkpointed(backend, store, "a") as completions:
            asyncio.get_running_loop().call_later(0.01, completions.stop)
            assert [item async for item in completions] == []


async def test_what_keeps_failing_goes_where_the_caller_says(store: ffc.FileCheckpoints) -> None:
    """After so many attempts, with its error; then it counts as done. It is never skipped unasked."""
    tried: list[str] = []
    failures: list[tuple[str, Exception]] = []

    async def handler(completion: ffc.CompletionPayload) -> None:
        tried.append(completion.execution_id)
        if completion.execution_id == ID % 1:
            raise LookupError("no such thing")
        if completion.execution_id == ID % 2 and tried.count(ID % 2) == 1:
            raise LookupError("only once")
        if completion.execution_id == ID % 3:
            completions.stop()

    async def failed(completion: ffc.CompletionPayload, error: Exception) -> None:
        failures.append((completion.execution_id, error))

    async with MemoryBackend() as backend:
        items = emitted(backend, 5)
        async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
            done = await completions.run(handler, attempts=2, failed=failed)
        assert done == ffc.Processed(processed=3, failed=1, cursor=items[3].cursor)
        assert [(id_, str(error)) for id_, error in failures] == [(ID % 1, "no such thing")]
        assert tried == [ID % 0, ID % 1, ID % 1, ID % 2, ID % 2, ID % 3]


async def test_without_a_handler_for_it_a_failure_is_raised(store: ffc.FileCheckpoints) -> None:
    """As is one of that handler's own; the item comes again."""

    async def handler(_: ffc.CompletionPayload) -> None:
        raise LookupError("first")

    async def failed(_: ffc.CompletionPayload, error: Exception) -> None:
        raise OSError("second") from error

    async with MemoryBackend() as backend:
        emitted(backend, 2)
        for options, expected in ((dict[str, Any](), LookupError), ({"failed": failed}, OSError)):
            with pytest.raises(expected):
                async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
                    await completions.run(handler, **options)
            async with ffc.checkpointed(backend, store, "a") as completions:
                assert (await anext(completions)).execution_id == ID % 0
        with pytest.raises(ffc.Validation, match="attempts"):
            async with ffc.checkpointed(backend, store, "a") as completions:
                await completions.run(handler, attempts=0)


Stores = Callable[[], Any]


@pytest.fixture(params=["file", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Stores]:
    """Makes stores of one and the same position."""
    if request.param == "file":

        @asynccontextmanager
        async def file() -> AsyncGenerator[ffc.LeasingStore]:
            yield ffc.FileCheckpoints(tmp_path / "position")

        yield file
        return
    url: str = request.getfixturevalue("postgres18_url")
    table = f"leased_{uuid.uuid4().hex}"
    yield lambda: PostgresCheckpoints(url, table=table)


async def test_a_name_is_one_consumer_s_alone(stores: Stores) -> None:
    """The second raises, or waits; it has its turn when the first is done; other names are others'."""
    async with MemoryBackend() as backend, stores() as one, stores() as two:
        async with ffc.checkpointed(backend, one, "a", lease="raise"):
            with pytest.raises(ffc.Unavailable, match="another consumer runs 'a'"):
                async with ffc.checkpointed(backend, two, "a", lease="raise"):
                    pass
            waiting = asyncio.create_task(ffc.checkpointed(backend, two, "a", lease="wait").__aenter__())
            await asyncio.sleep(0.3)
            assert not waiting.done()
        async with asyncio.timeout(30):
            second = await waiting
        with pytest.raises(ffc.Unavailable, match="another consumer"):
            async with ffc.checkpointed(backend, one, "a", lease="raise"):
                pass
        await second.__aexit__(None, None, None)
        async with ffc.checkpointed(backend, one, "a", lease="raise"):
            pass


async def test_consumers_of_one_store_are_told_apart(stores: Stores) -> None:
    """Two that begin at the same moment with the very same object: one has the name, the other raises, or waits."""
    async with MemoryBackend() as backend, stores() as store:
        both = [ffc.checkpointed(backend, store, "a", lease="raise") for _ in range(2)]
        entered = await asyncio.gather(*(each.__aenter__() for each in both), return_exceptions=True)
        (first,) = (each for each in both if each in entered)
        (refused,) = (each for each in entered if isinstance(each, BaseException))
        assert isinstance(refused, ffc.Unavailable)
        waiting = asyncio.create_task(ffc.checkpointed(backend, store, "a", lease="wait").__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await first.__aexit__(None, None, None)
        async with asyncio.timeout(30):
            await (await waiting).__aexit__(None, None, None)


async def test_whoever_gives_up_waiting_holds_nothing(stores: Stores) -> None:
    """Cancelled while it waits, and where entering fails afterwards."""
    async with MemoryBackend() as backend, stores() as one, stores() as two:
        async with ffc.checkpointed(backend, one, "a", lease="raise"):
            waiting = asyncio.create_task(ffc.checkpointed(backend, two, "a", lease="wait").__aenter__())
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.wait([waiting])
        foreign = ffc.CursorFamily(0xA7).at(1)
        await one.save("a", ffc.Checkpoint(cursor=foreign, backend="", selection=""))
        with pytest.raises(ffc.Validation, match="0xa7 cursors"):
            async with ffc.checkpointed(backend, two, "a", lease="raise"):
                pass
        await one.acquire("a", wait=False)
        await one.release("a")
        await one.release("a")


async def test_a_lease_is_gone_with_its_holder_s_process(tmp_path: Path) -> None:
    """Killed, too."""
    program = (
        "import asyncio, sys\nimport ffcompletion as ffc\n"
        "async def main():\n"
        "    async with ffc.connect('memory://') as backend:\n"
        "        async with ffc.checkpointed(backend, ffc.FileCheckpoints(sys.argv[1]), 'a', lease='raise'):\n"
        "            print('held', flush=True)\n            await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "position"
    with subprocess.Popen([*Interpreter(), "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        store = ffc.FileCheckpoints(path)
        with pytest.raises(ffc.Unavailable, match="another consumer"):
            await store.acquire("a", wait=False)
        holder.kill()
    async with asyncio.timeout(30):
        await store.acquire("a", wait=True)
    await store.release("a")


async def test_a_store_that_cannot_lease_says_so() -> None:
    """Rather than run without."""

    class Plain:
        async def load(self, name: str, /) -> ffc.Checkpoint | None:
            raise NotImplementedError(name)

        async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
            raise NotImplementedError(name)

    with pytest.raises(ffc.Unavailable, match="Plain cannot"):
        async with ffc.checkpointed(MemoryBackend(), Plain(), "a", lease="wait"):
            pass
    odd: Any = "perhaps"
    with pytest.raises(ffc.Validation, match="lease"):
        ffc.checkpointed(MemoryBackend(), Plain(), "a", lease=odd)


async def test_a_stored_position_names_family_and_filter_by_value(store: ffc.FileCheckpoints, tmp_path: Path) -> None:
    """So that no class's name and no repr is in it; however filter and partitions were spelled, it is the same."""
    a, b = ffc.ScannerFilter("a"), ffc.ScannerFilter("b")
    async with MemoryBackend() as backend:
        async with ffc.checkpointed(
            backend, store, "a", ffc.any_of(a, b), start=BEGINNING, partitions=range(0, 10, 2)
        ) as completions:
            emitted(backend, 1)
            backend.emit(ID.replace("7", "4", 1) % 1, namespace="a")
            await anext(completions)
            await completions.commit()
        line = json.loads((tmp_path / "position").read_text())
        assert line["backend"] == "stream"
        assert json.loads(line["selection"]) == {
            "any": [{"namespace": "a"}, {"namespace": "b"}],
            "partitions": {"from": 0, "to": 8, "step": 2},
        }
        async with ffc.checkpointed(backend, store, "a", ffc.any_of(b, a), partitions=[8, 6, 4, 2, 0]):
            pass
        with pytest.raises(ffc.Validation, match="stored for"):
            async with ffc.checkpointed(backend, store, "a", ffc.all_of(a, b), partitions=range(0, 10, 2)):
                pass


async def test_a_position_that_was_stored_by_a_former_class_s_name(store: ffc.FileCheckpoints) -> None:
    """Is gone on with where the caller says so, and stored by what was said from then on."""
    wanted = ffc.matching(lambda namespace, _: namespace != "b")
    former = "app.filters.NotB"
    async with MemoryBackend() as backend:
        first = backend.emit(ID % 1)
        assert first.cursor is not None
        await store.save(
            "a", ffc.Checkpoint(cursor=first.cursor, backend="MemoryBackend", selection=f"{former} partitions=[7]")
        )
        for selection, partitions in ("not b", [7]), (former, [8]):
            with pytest.raises(ffc.Validation, match=r"stored for app\.filters\.NotB"):
                async with ffc.checkpointed(backend, store, "a", wanted, selection=selection, partitions=partitions):
                    pass
        second = backend.emit(ID % 2, namespace="a")
        async with ffc.checkpointed(backend, store, "a", wanted, selection=former, partitions=[7]) as completions:
            assert (await anext(completions)).execution_id == second.execution_id
            await completions.commit()
    kept = await store.load("a")
    assert kept is not None
    assert json.loads(kept.selection) == {"filter": former, "partitions": [7]}
