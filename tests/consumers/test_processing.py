"""At least once over restarts: what is stored, when, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.worlds import World, done, eventually, nothing

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"
BEGINNING = ffc.StreamCursor.beginning()


class Kept:
    """A store in memory, which can fail."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, ffc.Checkpoint] = {}
        self.saves = 0
        self.error: Exception | None = None

    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        return self.checkpoints.get(name)

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.saves += 1
        self.checkpoints[name] = checkpoint


def test_kept_is_a_store() -> None:
    assert isinstance(Kept(), ffc.CheckpointStore)


async def _refused(world: World) -> bool:
    """Whether this one keeps no log; then it says so."""
    if not world.resumable:
        async with world.backend() as backend:
            with pytest.raises(ffc.Unavailable, match="no log"):
                async with ffc.checkpointed(backend, Kept(), "a"):
                    pass
            assert backend.stats().streams == 0
    return not world.resumable


async def up_to(completions: AsyncIterator[ffc.CompletionPayload], ids: list[str], at: int) -> None:
    """Postgres may repeat a few that are done, in order; ``at`` is never passed over."""
    number = ids.index((await anext(completions)).execution_id)
    assert number <= at
    for expected in ids[number + 1 : at + 1]:
        assert (await anext(completions)).execution_id == expected


async def test_go_on_where_it_stopped(world: World) -> None:
    """What the body has ended for is not seen again; the one in hand is, whether by break or by error."""
    if await _refused(world):
        return
    store, items = Kept(), [done() for _ in range(6)]
    ids = [item.execution_id for item in items]
    async with world.backend() as backend:
        async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
            await world.announce(*items)
            got = [(await anext(completions)).execution_id for _ in range(3)]
        assert got == ids[:3]
        with pytest.raises(ZeroDivisionError):
            async with ffc.checkpointed(backend, store, "a") as completions:
                await up_to(completions, ids, 2)
                raise ZeroDivisionError
        async with ffc.checkpointed(backend, store, "a") as completions:
            await up_to(completions, ids, 2)
            assert (await anext(completions)).execution_id == ids[3]
            await completions.commit()
        async with ffc.checkpointed(backend, store, "a") as completions:
            await up_to(completions, ids, 4)
            assert (await anext(completions)).execution_id == ids[5]
        # Another name knows nothing of it, and begins now.
        async with ffc.checkpointed(backend, store, "b") as completions:
            await nothing(completions, done(), world)


async def test_from_now_is_stored_at_once(world: World) -> None:
    """Stopped before it processed anything: what happened while it was down is not lost to a later "now"."""
    if await _refused(world):
        return
    store, before, meanwhile = Kept(), done(), done()
    async with world.backend() as backend:
        await world.announce(before)
        async with ffc.checkpointed(backend, store, "a"):
            pass
        await world.announce(meanwhile)
        async with ffc.checkpointed(backend, store, "a") as completions:
            assert (await anext(completions)).execution_id == meanwhile.execution_id


async def test_many_at_once(world: World) -> None:
    """The cursor follows the oldest in work; a handler's own error comes out, and its completion comes again."""
    if await _refused(world):
        return
    store, items = Kept(), [done() for _ in range(20)]
    ids = [item.execution_id for item in items]
    stuck, handled, at_once, most = asyncio.Event(), [], 0, 0

    async def handle(completion: ffc.CompletionPayload) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            if completion.execution_id == ids[5]:
                await stuck.wait()
                raise ZeroDivisionError("the fifth")
            await asyncio.sleep(0.001)
            handled.append(completion.execution_id)
        finally:
            at_once -= 1

    async with world.backend() as backend:
        await world.announce(*items)
        with pytest.raises(ZeroDivisionError, match="the fifth"):
            async with ffc.checkpointed(backend, store, "a", start=BEGINNING) as completions:
                running = asyncio.create_task(completions.run(handle, concurrency=4))
                await eventually(lambda: len(handled) == 19)
                stuck.set()
                await running
        assert most == 4
        assert set(handled) == {*ids} - {ids[5]}
        async with ffc.checkpointed(backend, store, "a") as completions:
            await up_to(completions, ids, 5)
            assert [(await anext(completions)).execution_id for _ in range(14)] == ids[6:]


async def test_run_ends_with_the_backend() -> None:
    """Everything handed out by then is done and stored."""
    store = Kept()
    backend = MemoryBackend()
    handled: list[str] = []

    async def handle(completion: ffc.CompletionPayload) -> None:
        await asyncio.sleep(0.01)
        handled.append(completion.execution_id)

    async with ffc.checkpointed(backend, store, "a") as completions:
        running = asyncio.create_task(completions.run(handle, concurrency=8))
        last = [backend.emit(ID % n) for n in range(30)][-1]
        await eventually(lambda: len(handled) == 30)
        await backend.aclose()
        await asyncio.wait_for(running, 30)
    assert store.checkpoints["a"].cursor == last.cursor


async def test_a_store_that_fails_is_the_consumers_error() -> None:
    """Raised by the loop, also while it waits for the next; the cursor stays where it was."""
    store = Kept()
    async with MemoryBackend() as backend:
        with pytest.raises(OSError, match="disk full"):
            async with ffc.checkpointed(backend, store, "a", save_interval=0) as completions:
                backend.emit(ID % 1)
                await anext(completions)
                before = store.checkpoints["a"]
                store.error = OSError("disk full")
                async with asyncio.timeout(30):
                    await anext(completions)
        assert store.checkpoints["a"] == before
        store.error = OSError("still full")
        with pytest.raises(OSError, match="still full"):
            async with ffc.checkpointed(backend, store, "b"):
                pass
        assert backend.stats().streams == 0


async def test_one_error_at_a_time() -> None:
    """The body's own wins over the store's."""
    store = Kept()
    async with MemoryBackend() as backend:
        with pytest.raises(ZeroDivisionError):
            async with ffc.checkpointed(backend, store, "a") as completions:
                backend.emit(ID % 1)
                backend.emit(ID % 2)
                await anext(completions)
                await anext(completions)
                store.error = OSError("disk full")
                raise ZeroDivisionError


async def test_saves_are_few() -> None:
    """A thousand completions in a burst do not make a thousand writes."""
    store = Kept()
    async with MemoryBackend() as backend, ffc.checkpointed(backend, store, "a") as completions:
        for n in range(1000):
            backend.emit(ID % n)
        for _ in range(1000):
            await anext(completions)
        await completions.commit()
        assert store.saves <= 5


async def test_what_a_filter_does_not_admit_moves_the_cursor() -> None:
    """Else a consumer of a quiet tenant would stand still until its cursor had expired."""
    store = Kept()
    async with MemoryBackend() as backend:
        async with ffc.checkpointed(backend, store, "a", ffc.ScannerFilter("quiet")) as completions:
            waiting = asyncio.create_task(anext(completions))
            last = [backend.emit(ID % n, namespace="loud") for n in range(10)][-1]
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert store.checkpoints["a"].cursor == last.cursor


async def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    """Another filter, other partitions, another backend, another name: named, and the file untouched."""
    path = tmp_path / "checkpoint"
    store = ffc.FileCheckpoints(path)
    async with MemoryBackend() as backend:
        async with ffc.checkpointed(backend, store, "a", ffc.ScannerFilter("x")) as completions:
            backend.emit(ID % 1, namespace="x")
            await anext(completions)
        before = path.read_bytes()
        wrong: list[tuple[str, Any, str]] = [
            ("a", {"filter": None}, '"namespace":"x"'),
            ("a", {"filter": ffc.ScannerFilter("y")}, '"namespace":"y"'),
            ("a", {"filter": ffc.ScannerFilter("x", ("k", "v"))}, "tag"),
            ("a", {"filter": ffc.ScannerFilter("x"), "partitions": range(3)}, "partitions"),
            ("b", {"filter": ffc.ScannerFilter("x")}, "belongs to 'a'"),
        ]
        for name, options, text in wrong:
            with pytest.raises(ffc.Validation, match=text):
                async with ffc.checkpointed(backend, store, name, **options):
                    pass
        assert backend.stats().streams == 0
    async with ffc.connect("postgresql://127.0.0.1:1/x") as other:
        with pytest.raises(ffc.Validation, match="stream cursors"):
            async with ffc.checkpointed(other, store, "a", ffc.ScannerFilter("x")):
                pass
    # The same class, but another log.
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="cursor"):
            async with ffc.checkpointed(backend, store, "a", ffc.ScannerFilter("x")):
                pass
    assert path.read_bytes() == before


async def test_a_backend_that_cannot_resume() -> None:
    """Said before anything is stored."""
    store = Kept()
    async with ffc.connect("valkey://127.0.0.1:1") as backend:
        with pytest.raises(ffc.Unavailable, match="no log"):
            async with ffc.checkpointed(backend, store, "a"):
                pass
    assert not store.checkpoints
    with pytest.raises(ffc.Validation, match="save_interval"):
        ffc.checkpointed(MemoryBackend(), store, "a", save_interval=-1)
    with pytest.raises(ffc.Unavailable, match="async with"):
        await anext(ffc.checkpointed(MemoryBackend(), store, "a"))
