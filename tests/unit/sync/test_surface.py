"""The blocking surface is the asynchronous one, name by name; and what streams and checkpointed consumers tell there."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import ffcompletion as ffc
from ffcompletion import options
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers import subscribing, waiting
from ffcompletion.consumers.options import CheckpointedOptions, SubscribeOptions, WaitOptions
from ffcompletion.consumers.processing import Checkpointed

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
BEGINNING = ffc.StreamCursor.beginning()


def parameters(function: Callable[..., object], leave: int = 0) -> list[tuple[str, object, object]]:
    """Name, default, whether by keyword alone; the first few left out. Of options, which ``TypedDict`` they are."""
    kept = list(inspect.signature(function).parameters.values())[leave:]
    return [
        (
            each.name,
            each.default,
            get_type_hints(function)[each.name] if each.kind is each.VAR_KEYWORD else each.kind is each.KEYWORD_ONLY,
        )
        for each in kept
    ]


@pytest.mark.parametrize(
    "name", ["wait_for_completion", "as_completed", "wait_for_all", "wait_for_flow", "checkpointed"]
)
def test_functions_on_a_backend_are_its_methods(name: str) -> None:
    """With the same parameters, names, defaults and all."""
    assert parameters(getattr(ffc.sync.Backend, name), 1) == parameters(getattr(ffc, name), 1)


@pytest.mark.parametrize("name", ["describe_execution", "describe_executions", "flow_members", "stats"])
def test_methods_are_those_of_the_asynchronous_backend(name: str) -> None:
    """The same."""
    assert parameters(getattr(ffc.sync.Backend, name), 1) == parameters(getattr(ffc.Backend, name), 1)


@pytest.mark.parametrize("name", ["commit", "stop", "run"])
def test_a_checkpointed_consumer_s_too(name: str) -> None:
    """The same."""
    assert parameters(getattr(ffc.sync.Checkpointed, name), 1) == parameters(getattr(Checkpointed, name), 1)


def test_subscribe_takes_what_subscribe_takes() -> None:
    """The same: what it takes for a ``Backend``."""
    assert parameters(ffc.sync.Backend.subscribe, 1) == parameters(ffc.subscribe, 1)


@pytest.mark.parametrize(
    ("written", "function"),
    [
        (SubscribeOptions, subscribing.open_stream),
        (WaitOptions, waiting._wait),
        (CheckpointedOptions, Checkpointed.__init__),
    ],
)
def test_options_are_what_is_taken(written: type, function: Callable[..., object]) -> None:
    """By name and type, each with a default, and all of them."""
    taken = {
        name: each for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    hints = get_type_hints(function)
    assert {name: hints[name] for name in taken} == get_type_hints(written)
    assert not [name for name, each in taken.items() if each.default is each.empty]
    assert vars(options)[written.__name__] is written


def test_nothing_is_missing_on_either_side() -> None:
    """Whatever takes a backend, and whatever a backend has, is there; and nothing that has no twin."""

    def public(thing: type) -> set[str]:
        return {name for name in dir(thing) if not name.startswith("_")}

    functions = {
        name
        for name in ffc.__all__
        if inspect.isfunction(found := getattr(ffc, name))
        and next(iter(inspect.signature(found).parameters), "") == "backend"
    }
    methods = public(ffc.Backend) - {"subscribe_completions", "subscribe_completions_filtered", "aclose"}
    assert public(ffc.sync.Backend) == functions | methods | {"close"}
    assert public(ffc.sync.Stream) == public(ffc.Subscription) - {"aclose"} | {"close"}
    assert public(ffc.sync.Checkpointed) == public(Checkpointed)


@pytest.fixture
def backend() -> Iterator[tuple[ffc.sync.Backend, MemoryBackend]]:
    inner = ffc.connect("memory://")
    with ffc.sync.Backend(inner) as outer:
        yield outer, inner


def test_a_stream_tells_where_it_stands(backend: tuple[ffc.sync.Backend, MemoryBackend]) -> None:
    """Behind what was yielded, however much has been moved to the thread ahead of it; once it is closed, too."""
    outer, inner = backend
    with outer.subscribe(results=True) as stream:
        items = [inner.emit(ID % n, payload_bytes=b"%d" % n) for n in range(5)]
        assert [next(stream).payload_bytes for _ in range(2)] == [b"0", b"1"]
        assert stream.cursor == items[1].cursor
        assert stream.stats().delivered == 2
        assert stream.stats().buffered == 3
    assert stream.cursor == items[1].cursor
    assert stream.stats().delivered == 2
    with outer.subscribe(cursor=stream.cursor, partitions=range(65_536)) as rest:
        assert [next(rest).execution_id for _ in range(3)] == [ID % 2, ID % 3, ID % 4]
        assert rest.cursor == items[4].cursor
    with outer.subscribe() as fresh:
        assert fresh.cursor == items[4].cursor
        assert fresh.stats() == ffc.StreamStats()


def test_executions_and_flows_are_read(backend: tuple[ffc.sync.Backend, MemoryBackend]) -> None:
    """Many in one exchange."""
    outer, inner = backend
    inner.emit(ID % 1, flow_id=FLOW, payload_bytes=b"x")
    one, none = outer.describe_executions([ID % 1, ID % 2], result=True)
    assert one is not None
    assert one.result == b"x"
    assert none is None
    assert outer.flow_members(FLOW) == [ID % 1]


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


def test_nothing_is_left_of_an_untyped_caller(backend: tuple[ffc.sync.Backend, MemoryBackend]) -> None:
    """Errors of arguments are raised where they are given."""
    outer, _ = backend
    odd: Any = "perhaps"
    with pytest.raises(ffc.Validation, match="lease"):
        outer.checkpointed(odd, "a", lease=odd)
    with pytest.raises(ffc.Unavailable, match=r"str is no ffcompletion\.Backend"):
        ffc.sync.Backend(odd)
    wrong: Any = {"timout": 1}
    with pytest.raises(TypeError, match="timout"):
        outer.wait_for_completion(ID % 1, **wrong)
