"""Hundreds of tasks and threads that subscribe, read, cancel, drop and close at random: then nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.delivery.hub import Hub
from ffcompletion.sync.loop import LoopThread
from tests.faults.test_hostile_foreign import Own, raiser
from tests.worlds import MemoryWorld, PostgresWorld, ValkeyWorld, World, done, eventually, first

# A short form. The long one: FFCOMPLETION_TEST_CROWD=700 FFCOMPLETION_TEST_CROWD_SECONDS=60.
TASKS = int(os.environ.get("FFCOMPLETION_TEST_CROWD", "150"))
SECONDS = float(os.environ.get("FFCOMPLETION_TEST_CROWD_SECONDS", "1.5"))
THREADS = max(24, TASKS // 8)
FILTERS: list[Any] = [None, ffc.ScannerFilter("a"), ffc.ScannerFilter("b", ("k", "v")), Own(), Own(raiser(SystemExit))]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _groups() -> int:
    gc.collect()
    return sum(len(thing.groups) for thing in gc.get_objects() if isinstance(thing, Hub))


async def _open(backend: Any, dice: random.Random) -> Any:
    wanted = dice.choice(FILTERS)
    if isinstance(backend, ffc.ResumableCompletionBackend) and dice.random() < 0.3:
        return await backend.subscribe_completions_from(ffc.StreamCursor.beginning(), wanted)
    if wanted is None:
        return await backend.subscribe_completions()
    return await backend.subscribe_completions_filtered(wanted, results=dice.random() < 0.3)


async def _within(seconds: float, work: Any) -> Any:
    """Cancelled when the time is up, wherever it stands."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ffc.EngineError, StopAsyncIteration):
        return await task
    return None


async def _one(backend: Any, dice: random.Random, until: float, id_: str) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(dice.random() * 0.2)
        # Sometimes so short that it is cancelled anywhere in between.
        stream = await _within(dice.choice((0.0, 0.001, 0.02, 10.0)), _open(backend, dice))
        if stream is None:
            continue
        for _ in range(dice.randrange(4)):
            await _within(dice.choice((0.0, 0.01, 0.1)), anext(stream))
        end = dice.randrange(4)
        if end == 0:
            await stream.aclose()
        elif end == 1:
            await _within(dice.choice((0.0, 0.001)), stream.aclose())
        elif end == 2:
            reading = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0)
            await stream.aclose()
            with contextlib.suppress(StopAsyncIteration):
                await asyncio.wait_for(reading, 10)
        # else it is dropped, unclosed.
        if dice.random() < 0.1:
            await _within(dice.choice((0.001, 0.05)), backend.describe_execution(id_))
        if dice.random() < 0.05:
            await _within(dice.choice((0.001, 0.05)), ffc.wait_for_completion(backend, id_, missing="wait"))


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_crowd_leaves_nothing_behind(world: World) -> None:
    """Streams, connections, descriptors, groups, tasks; and a fresh stream receives."""
    backend = world.backend()
    # What is made once and kept: the world's own connection, the driver's pipes.
    await world.announce(done())
    async with ffc.subscribe(backend):
        pass
    await eventually(lambda: _idle(world), 30)
    before, groups = _descriptors(), _groups()
    announcing = asyncio.create_task(_announce(world))
    until = time.monotonic() + SECONDS
    try:
        async with asyncio.timeout(90 + SECONDS):
            await asyncio.gather(*(_one(backend, random.Random(n), until, done().execution_id) for n in range(TASKS)))
    finally:
        announcing.cancel()
        await asyncio.wait([announcing])
    gc.collect()
    await eventually(lambda: backend.stats().streams == 0, 30)
    await eventually(lambda: _idle(world), 30)
    await eventually(lambda: _groups() <= groups, 30)
    await eventually(lambda: _descriptors() <= before, 30)
    await eventually(lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith("ffcompletion")], 30)
    assert backend.stats().state is ffc.BackendState.IDLE
    async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        item = done(namespace="a")
        await world.announce(item)
        assert (await first(stream)).execution_id == item.execution_id
    await backend.aclose()


async def _idle(world: World) -> bool:
    return await world.connections() == 0


async def _announce(world: World) -> None:
    while True:
        await world.announce(*(done(namespace=namespace, tags={"k": "v"}) for namespace in ("a", "b", None)))
        await asyncio.sleep(0.01)


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["memory", "valkey", "postgres18"])
def test_a_crowd_of_threads_leaves_nothing_behind(kind: str, request: pytest.FixtureRequest) -> None:
    """The same through the blocking calls; the thread that they share ends with the last backend."""
    made = _world(kind, request).backend()
    errors: list[BaseException] = []
    until = time.monotonic() + SECONDS

    def run(backend: Any, number: int) -> None:
        dice = random.Random(number)
        try:
            while time.monotonic() < until:
                stream = backend.subscribe(dice.choice(FILTERS))
                end = dice.randrange(3)
                if end == 0:
                    with stream:
                        pass
                elif end == 1:
                    closing = threading.Thread(target=stream.close)
                    closing.start()
                    for _ in stream:
                        break
                    closing.join()
                del stream
                time.sleep(dice.random() * 0.05)
        except BaseException as exc:
            errors.append(exc)

    groups = _groups()
    with ffc.sync.Backend(made) as backend:
        threads = [threading.Thread(target=run, args=(backend, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40 + SECONDS)
            assert not thread.is_alive()
        assert not errors
        end = time.monotonic() + 15
        while made.stats().streams and time.monotonic() < end:
            gc.collect()
            time.sleep(0.01)
        assert made.stats().streams == 0
        assert _groups() <= groups
    assert made.stats().state is ffc.BackendState.CLOSED
    assert not [thread for thread in threading.enumerate() if thread.name == "ffcompletion-sync"]


def _world(kind: str, request: pytest.FixtureRequest) -> World:
    if kind == "memory":
        return MemoryWorld()
    if kind == "valkey":
        return ValkeyWorld(request.getfixturevalue("valkey_url"))
    return PostgresWorld(18, request.getfixturevalue("postgres18_url"))


@pytest.mark.parametrize("kind", ["memory", "valkey", "postgres18"])
def test_an_interrupt_in_the_very_moment_of_opening_leaves_nothing(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stream was there, and nobody's: it stayed open with the backend, and a checkpoint's lease was held."""
    run, interrupts = LoopThread.run, 0

    def interrupted(self: LoopThread, work: Any) -> Any:
        nonlocal interrupts
        answer = run(self, work)
        if interrupts:
            interrupts -= 1
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(LoopThread, "run", interrupted)
    world = _world(kind, request)
    made = world.backend()
    with ffc.sync.Backend(made) as backend:
        interrupts = 1
        with pytest.raises(KeyboardInterrupt):
            backend.subscribe()
        if world.resumable:
            store = ffc.FileCheckpoints(tmp_path / "position")
            interrupted_in = backend.checkpointed(store, "a", lease="raise")
            interrupts = 1
            with pytest.raises(KeyboardInterrupt), interrupted_in:
                pass
            with backend.checkpointed(store, "a", lease="raise"):
                pass
        end = time.monotonic() + 15
        while made.stats().streams and time.monotonic() < end:
            time.sleep(0.01)
        assert made.stats().streams == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "ffcompletion-sync"]
