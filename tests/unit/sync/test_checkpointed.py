"""Checkpointed loops for code that blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.unit.sync.blocking import ID

BEGINNING = ffc.StreamCursor.beginning()


def test_a_checkpointed_loop_goes_on_where_it_stopped(
    backend: tuple[ffc.sync.Backend, MemoryBackend], tmp_path: Path
) -> None:
    """What the body had ended for is done; the one in hand comes again."""
    outer, inner = backend
    store = ffc.FileCheckpoints(tmp_path / "position")
    for n in range(5):
        inner.emit(ID % n)
    with outer.checkpointed(store, "a", start=BEGINNING, lease="raise") as completions:
        with (
            pytest.raises(ffc.Unavailable, match="another consumer"),
            outer.checkpointed(ffc.FileCheckpoints(tmp_path / "position"), "a", lease="raise"),
        ):
            pass
        assert [next(completions).execution_id for _ in range(3)] == [ID % 0, ID % 1, ID % 2]
    with outer.checkpointed(store, "a") as completions:
        assert next(completions).execution_id == ID % 2
        completions.commit()
        threading.Timer(0.1, completions.stop).start()
        assert [completion.execution_id for completion in completions] == [ID % 3, ID % 4]


def test_a_run_in_threads(backend: tuple[ffc.sync.Backend, MemoryBackend], tmp_path: Path) -> None:
    """Plain functions, several at once; what fails is handed on; stopped from one of them."""
    outer, inner = backend
    store = ffc.FileCheckpoints(tmp_path / "position")
    items = [inner.emit(ID % n) for n in range(6)]
    both = threading.Barrier(2, timeout=30)
    failures: list[str] = []

    def handler(completion: ffc.CompletionPayload) -> None:
        both.wait()
        if completion.execution_id == ID % 5:
            completions.stop()
        if completion.execution_id == ID % 2:
            raise LookupError

    def failed(completion: ffc.CompletionPayload, error: Exception) -> None:
        assert isinstance(error, LookupError)
        failures.append(completion.execution_id)

    with outer.checkpointed(store, "a", start=BEGINNING) as completions:
        done = completions.run(handler, concurrency=2, failed=failed)
    assert done == ffc.Processed(processed=5, failed=1, cursor=items[5].cursor)
    assert failures == [ID % 2]

    def fails(_: ffc.CompletionPayload) -> None:
        raise LookupError("mine")

    inner.emit(ID % 7)
    with pytest.raises(LookupError, match="mine"), outer.checkpointed(store, "a") as completions:
        completions.run(fails)


def test_a_handler_whose_body_would_never_run_is_refused(
    backend: tuple[ffc.sync.Backend, MemoryBackend], tmp_path: Path
) -> None:
    """Nothing counts as processed by it, and the position stays where it is."""
    outer, inner = backend
    store = ffc.FileCheckpoints(tmp_path / "position")
    inner.emit(ID % 1)

    async def awaited(_: ffc.CompletionPayload) -> None:
        raise AssertionError

    async def awaited_failure(_: ffc.CompletionPayload, error: Exception) -> None:
        raise AssertionError from error

    def generated(completion: ffc.CompletionPayload) -> Iterator[str]:
        yield completion.execution_id

    class Called:
        async def __call__(self, completion: ffc.CompletionPayload) -> None:
            raise AssertionError

    def fails(_: ffc.CompletionPayload) -> None:
        raise LookupError

    def passed_on(completion: ffc.CompletionPayload) -> object:
        return awaited(completion)

    def passed_on_generator(completion: ffc.CompletionPayload) -> object:
        return generated(completion)

    def refused(name: str, handler: Callable[[ffc.CompletionPayload], object], **options: Any) -> None:
        with outer.checkpointed(store, "a", start=BEGINNING) as completions, pytest.raises(ffc.Validation, match=name):
            completions.run(handler, **options)

    for handler in (awaited, partial(awaited), generated, Called(), passed_on, passed_on_generator):
        refused("handler", handler)
    refused("failed", fails, failed=awaited_failure)
    refused("failed", fails, failed=lambda completion, error: awaited_failure(completion, error))  # noqa: PLW0108  # its answer alone tells
    with outer.checkpointed(store, "a", start=BEGINNING) as completions:
        assert next(completions).execution_id == ID % 1


def test_whatever_a_handler_raises_comes_out(backend: tuple[ffc.sync.Backend, MemoryBackend], tmp_path: Path) -> None:
    """Also what is not to be raised by what is awaited, and would have held the run up for ever."""
    outer, inner = backend
    store = ffc.FileCheckpoints(tmp_path / "position")
    inner.emit(ID % 1)
    empty: Iterator[ffc.CompletionPayload] = iter(())
    for failed in (None, lambda _, error: next(empty, error) and next(empty)):
        with (
            outer.checkpointed(store, "a", start=BEGINNING) as completions,
            pytest.raises(RuntimeError, match="StopIteration"),
        ):
            completions.run(lambda _: next(empty), failed=failed)
    odd: Any = "3"
    with (
        outer.checkpointed(store, "a", start=BEGINNING) as completions,
        pytest.raises(ffc.Validation, match="concurrency"),
    ):
        completions.run(lambda _: None, concurrency=odd)


def test_a_backend_that_is_closed_in_the_block_ends_the_loop(tmp_path: Path) -> None:
    """The position is stored all the same, and the lease given back, as by the asynchronous one."""
    path = tmp_path / "position"
    inner = ffc.MemoryBackend()
    items = [inner.emit(ID % n) for n in range(3)]
    outer = ffc.sync.Backend(inner)
    with outer.checkpointed(ffc.FileCheckpoints(path), "a", start=BEGINNING, lease="raise") as completions:
        assert [next(completions).execution_id for _ in range(2)] == [ID % 0, ID % 1]
        outer.close()
        # What it has in memory it may still yield.
        assert [completion.execution_id for completion in completions][-1:] in ([], [ID % 2])
    with ffc.sync.Backend(ffc.MemoryBackend()) as another:
        stored = another.checkpointed(ffc.FileCheckpoints(path), "a", start=BEGINNING, lease="raise")
        with pytest.raises(ffc.Validation, match="does not belong"), stored:
            pass
    kept = asyncio.run(ffc.FileCheckpoints(path).load("a"))
    assert kept is not None
    assert kept.cursor in {item.cursor for item in items}
    assert not [thread for thread in threading.enumerate() if thread.name == "ffcompletion-sync"]
