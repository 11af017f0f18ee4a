"""A careless caller in the same process: what it gives, raises and leaves behind stays with it."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc
import ffcompletion.sync
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.delivery.credentials import ask_password
from ffcompletion.foreign.logs import logger
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, eventually, some

# ── logging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Exits(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit


class _Broken:
    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file")

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


def test_a_line_that_can_be_said_nowhere_is_lost_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon's stderr may be closed: what would have been said there ended the task that said it."""
    log = logger("ffcompletion.test.nowhere")
    monkeypatch.setattr(sys, "stderr", _Broken())
    monkeypatch.setattr(logging.getLogger("ffcompletion.test.nowhere"), "propagate", False)
    log.warning("nobody hears this")
    monkeypatch.setattr(logging, "lastResort", _Exits())
    log.warning("nor this")
    monkeypatch.setattr(logging, "lastResort", None)
    logging.getLogger("ffcompletion.test.nowhere").addHandler(_Exits())
    log.warning("nor this")
    assert log.refused == 3


async def test_streams_go_on_where_stderr_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Broken())
    monkeypatch.setattr(logging.getLogger("ffcompletion"), "propagate", False)
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        await world.drop_connections()
        items = [done() for _ in range(3)]
        for item in items:
            await world.ends(item)
        assert {item.execution_id for item in await some(stream, 3)} == {item.execution_id for item in items}
        await stream.aclose()


# ── filters within filters ───────────────────────────────────────────────────────────────────────────────────────────


def _nested(levels: int) -> Any:
    wanted: Any = ffc.ScannerFilter("a")
    for level in range(levels // 2):
        wanted = ffc.all_of(ffc.ScannerFilter("a"), ffc.any_of(ffc.ScannerFilter(f"x{level}"), wanted))
    return wanted


async def test_filters_within_each_other_are_bounded(world: World) -> None:
    """Each level asks the next: of 320, the stack of whoever reads for everybody did not suffice."""
    with pytest.raises(ffc.Validation, match="within each other"):
        _nested(34)
    async with world.backend() as backend:
        deep = await backend.subscribe_completions_filtered(_nested(32))
        other = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        item = done(namespace="a")
        await world.announce(done(namespace="b"), item)
        for stream in (deep, other):
            assert (await some(stream, 1))[0].execution_id == item.execution_id
            assert (stream.stats().overflows, stream.stats().undecided) == (0, 0)
            await stream.aclose()


class Narrow(ffc.ScannerFilter):  # type: ignore[misc]  # a checker would have refused it
    """Admits less than its fields say."""

    @override
    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        if core_namespace == "a":
            return tag_value == "never"
        raise SystemExit


_ANY: Any = type(ffc.any_of(ffc.ScannerFilter("x"), ffc.ScannerFilter("y")))


class Exits(_ANY):  # type: ignore[misc, no-any-unimported]  # the same
    @override
    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        raise SystemExit

    @override
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = _ANY.__hash__


_PARTS = (ffc.ScannerFilter("a"), ffc.ScannerFilter("b"))


@pytest.mark.parametrize(
    "wanted",
    [
        ffc.any_of(Narrow("a"), ffc.ScannerFilter("c")),
        ffc.any_of(ffc.ScannerFilter("c"), ffc.all_of(Narrow("a"), ffc.ScannerFilter("a"))),
        ffc.all_of(Narrow("a"), ffc.ScannerFilter("a")),
        Exits(_PARTS, None),
        _ANY([ffc.all_of(Narrow("a"), *_PARTS[:1])], None),
    ],
    ids=["any", "any of all", "all", "of any", "list"],
)
async def test_a_subclass_of_ours_is_asked_as_what_it_is(world: World, wanted: Any) -> None:
    """It was taken for its fields, among others: what it did not admit was let in."""
    async with world.backend() as backend:
        stream = await backend.subscribe_completions_filtered(wanted)
        other = await backend.subscribe_completions_filtered(ffc.any_of(*_PARTS))
        items = [done(namespace="a"), done(namespace="b")]
        await world.announce(*items)
        assert {item.execution_id for item in await some(other, 2)} == {item.execution_id for item in items}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.3)
        await stream.aclose()
        await other.aclose()


async def test_nothing_that_is_closed_can_be_copied() -> None:
    """A copy of a stream that was let go of closed the stream."""
    async with MemoryBackend() as backend:
        stream = await backend.subscribe_completions()
        for thing in (stream, backend):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be copied"):
                    copied(thing)
        item = backend.emit(done().execution_id)
        assert await some(stream, 1) == [item]
        await stream.aclose()


# ── passwords ────────────────────────────────────────────────────────────────────────────────────────────────────────

_RAISED = (asyncio.CancelledError, SystemExit, GeneratorExit, StopIteration, KeyboardInterrupt, MemoryError)


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
async def test_a_password_that_cannot_be_had_ends_nothing(world: World, later: bool) -> None:
    """What it raised was no fault to be mended: the reader ended, and so did the program, by its SystemExit."""
    if not isinstance(world, ValkeyWorld | PostgresWorld):
        pytest.skip("it needs none")
    raised: list[type[BaseException]] = []

    def ask() -> str:
        if raised:
            raise raised.pop()
        return "x"

    async def ask_later() -> str:
        return ask()

    if isinstance(world, ValkeyWorld):
        await world.command("ACL", "SETUSER", "callers", "on", ">x", "~*", "&*", "+@all")
    url = world.url.replace("://", "://callers@") if isinstance(world, ValkeyWorld) else world.url
    async with ffc.connect(url, password=ask_later if later else ask) as backend:
        for error in _RAISED:
            raised.append(error)
            with pytest.raises(ffc.Transport, match="password raised"):
                await backend.subscribe_completions()
        stream = await backend.subscribe_completions()
        if isinstance(world, PostgresWorld):
            # Valkey's driver comes back with the one that it has.
            raised += _RAISED
            await world.drop_connections()
            await eventually(lambda: not raised)
        item = done()
        await world.ends(item)
        assert (await some(stream, 1))[0].execution_id == item.execution_id
        await stream.aclose()


async def test_a_password_that_never_comes_costs_one_thread() -> None:
    """It took one of the executor's at each attempt, until nobody in the program had one, and it could not end."""
    release = threading.Event()

    def hangs() -> str:
        release.wait()
        return "x"

    async def ask() -> str:
        async with asyncio.timeout(0.05):
            return await ask_password(hangs, "a server")

    before = threading.active_count()
    assert all(isinstance(each, TimeoutError) for each in await asyncio.gather(*map(_reported, [ask] * 50)))
    assert threading.active_count() == before + 1
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 3), 30) == 3
    release.set()
    await eventually(lambda: threading.active_count() <= before + 1)
    assert await ask_password(hangs, "a server") == "x"


async def _reported(ask: Callable[[], Awaitable[str]]) -> object:
    try:
        return await ask()
    except TimeoutError as exc:
        return exc


async def test_a_password_that_cancels_its_task_cancels_its_own() -> None:
    """It was the reader's, and nobody read any more."""

    async def cancels() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)
        return "x"

    with pytest.raises(ffc.Transport):
        await asyncio.wait_for(ask_password(cancels, "a server"), 5)


async def test_a_plain_password_whose_answer_is_to_be_awaited_is_asked_for_by_each() -> None:
    calls = 0

    async def later() -> str:
        return "x"

    def ask() -> Awaitable[str]:
        nonlocal calls
        calls += 1
        time.sleep(0.05)
        return later()

    assert await asyncio.gather(*(ask_password(ask, "a server") for _ in range(3))) == ["x"] * 3
    assert calls == 3


# ── the thread that all blocking code shares ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_one_callers_code_raises_ends_no_others_loop(error: type[BaseException]) -> None:
    """Ids out of a generator that exits ended the thread, and everybody's waits and streams with it."""

    def ids() -> Iterator[str]:
        yield done().execution_id
        raise error

    memory = MemoryBackend()
    with ffcompletion.sync.Backend(memory) as victim, victim.subscribe() as stream:
        with ffcompletion.sync.Backend(MemoryBackend()) as careless, pytest.raises(error):
            careless.wait_for_all(ids(), timeout=5)
        memory.emit(item := done().execution_id)
        assert next(stream).execution_id == item
        assert victim.wait_for_completion(item, timeout=5).execution_id == item


# ── streams and stores of a program's own ────────────────────────────────────────────────────────────────────────────


class _Raises:
    """A stream that raises at its first item."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __aiter__(self) -> _Raises:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        raise self._error

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit])
async def test_what_a_shared_stream_raises_is_raised_by_its_consumers(error: type[BaseException]) -> None:
    """To them it had ended, as if nothing were wrong; a SystemExit ended the program."""
    async with ffc.broadcast(_Raises(error), overflow="wait") as shared:
        stream = await shared.subscribe_completions()
        with pytest.raises(ffc.Unavailable):
            await asyncio.wait_for(anext(stream), 5)


class _Store:
    """Answers what it is told to; cancels the task that saves, from the second time on."""

    def __init__(self, answer: Any = None, *, cancels: bool = False) -> None:
        self._answer = answer
        self._cancels = cancels
        self._saved = 0

    async def load(self, name: str, /) -> Any:
        return self._answer

    async def save(self, name: str, checkpoint: ffc.Checkpoint, /) -> None:
        self._saved += 1
        task = asyncio.current_task()
        if self._cancels and self._saved > 1 and task is not None:
            task.cancel()
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "fields",
    [
        {"cursor": "x"},
        {"cursor": None},
        {"cursor": ffc.StreamCursor(2, 1 << 80)},
        {"cursor": ffc.StreamCursor(1, "x")},  # type: ignore[arg-type]  # that is the point
        {"backend": 3},
        {"selection": []},
    ],
    ids=str,
)
async def test_a_stored_position_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"cursor": ffc.StreamCursor.beginning(), "backend": "", "selection": "", **fields}
    async with MemoryBackend() as backend:
        with pytest.raises(ffc.Validation, match="checkpoint"):
            async with ffc.checkpointed(backend, _Store(ffc.Checkpoint(**whole)), "x"):
                pass
        assert backend.stats().streams == 0


async def test_a_store_that_cancels_the_task_that_saves_is_told_of() -> None:
    """Nothing was stored from then on, and the loop went on without a word."""
    async with MemoryBackend() as backend:
        for _ in range(3):
            backend.emit(done().execution_id)
        with pytest.raises(ffc.Unavailable, match="cancelled"):
            async with asyncio.timeout(10):
                start = ffc.StreamCursor.beginning()
                store = _Store(cancels=True)
                async with ffc.checkpointed(backend, store, "x", start=start, save_interval=0.01) as completions:
                    async for _ in completions:
                        await asyncio.sleep(0)
        assert backend.stats().streams == 0
