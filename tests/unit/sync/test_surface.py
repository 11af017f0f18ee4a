"""The blocking surface is the asynchronous one, name by name; and what streams and checkpointed consumers tell there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

import ffcompletion as ffc
from ffcompletion import options
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.consumers import subscribing, waiting
from ffcompletion.consumers.options import CheckpointedOptions, SubscribeOptions, WaitOptions
from ffcompletion.consumers.processing import Checkpointed
from tests.unit.sync.blocking import ID

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"


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
