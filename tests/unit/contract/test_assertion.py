"""``assert_completion_backend``: every fault in one message, and nothing is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend


class Right:
    async def subscribe_completions(self) -> Any:
        raise AssertionError("called")

    async def subscribe_completions_filtered(self, filter: Any, /) -> Any:
        raise AssertionError("called")


class Plain:
    """A plain function would raise nothing before its answer is awaited."""

    def subscribe_completions(self) -> Any: ...

    subscribe_completions_filtered = Right.subscribe_completions_filtered


class Generator:
    async def subscribe_completions(self) -> AsyncIterator[Any]:
        yield 1

    subscribe_completions_filtered = Right.subscribe_completions_filtered


class Greedy:
    async def subscribe_completions(self, more: int) -> Any: ...

    async def subscribe_completions_filtered(self) -> Any: ...


class Attribute:
    subscribe_completions = 7
    subscribe_completions_filtered = Right.subscribe_completions_filtered


def unwritten() -> Any:
    """Of a class that inherits, and wrote nothing."""
    made: Any = type("Unwritten", (ffc.CompletionBackend,), {"__abstractmethods__": frozenset()})
    return made()


def test_what_is_right_passes() -> None:
    """By structure; also where a method is wrapped."""
    wrapped: Any = Right()
    wrapped.subscribe_completions = partial(wrapped.subscribe_completions)
    for backend in (Right(), wrapped, MemoryBackend()):
        ffc.assert_completion_backend(backend)


@pytest.mark.parametrize(
    ("backend", "faults"),
    [
        (object(), ["subscribe_completions is missing", "subscribe_completions_filtered is missing"]),
        (Right, ["got the class Right"]),
        (unwritten(), ["subscribe_completions is missing"]),
        (Plain(), ["must be `async def`"]),
        (Generator(), ["async generator"]),
        (Greedy(), ["with no arguments", "exactly one positional argument"]),
        (Attribute(), ["is a int, not a method"]),
    ],
)
def test_every_fault_is_told(backend: object, faults: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        ffc.assert_completion_backend(backend)
    for fault in faults:
        assert fault in str(caught.value)
