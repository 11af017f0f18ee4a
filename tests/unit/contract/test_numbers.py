"""Numbers that are handed in: what is none, or none that a clock can take, is refused in our words, through every door."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.contract.numbers import MOST_S, check_count, check_seconds
from ffcompletion.web import completions_app

ID = "{fp:1}:550e8400-e29b-41d4-a716-446655440099"
POSTGRES, VALKEY = "postgresql://nobody@nowhere.invalid/x", "valkey://nowhere.invalid"
NO_NUMBERS: list[object] = ["5", b"5", "", True, [], object(), math.nan, -1, -0.5, -math.inf, -(10**400)]


def _wait(**options: object) -> None:
    asyncio.run(ffc.wait_for_completion(MemoryBackend(), ID, missing="wait", **options))  # type: ignore[arg-type]  # that is what is tried


def _broadcast(buffer_size: int) -> None:
    async def opened() -> None:
        async with ffc.subscribe(MemoryBackend()) as stream:
            ffc.broadcast(stream, overflow="drop", buffer_size=buffer_size)

    asyncio.run(opened())


async def _nobody(_: object) -> None:
    return None


def _door(make: Callable[..., object], *names: str) -> list[tuple[Callable[..., object], str]]:
    return [(make, name) for name in names]


SECONDS = [
    *_door(lambda **o: PostgresBackend(POSTGRES, **o), "poll_interval", "setup_timeout", "read_timeout",
           "reconcile_interval", "linger"),
    *_door(lambda **o: ValkeyBackend(VALKEY, **o), "setup_timeout", "reconcile_interval", "clock_skew", "linger"),
    *_door(MemoryBackend, "setup_timeout"),
    *_door(lambda **o: PostgresCheckpoints(POSTGRES, **o), "timeout"),
    *_door(lambda **o: completions_app(MemoryBackend(), authorize=_nobody, **o), "max_wait", "keepalive", "reauthorize"),
    *_door(_wait, "timeout", "poll_interval"),
]  # fmt: skip
COUNTS = [
    *_door(lambda **o: PostgresBackend(POSTGRES, **o), "buffer_size", "pool_size"),
    *_door(lambda **o: ValkeyBackend(VALKEY, **o), "buffer_size", "database"),
    *_door(MemoryBackend, "buffer_size", "retention"),
    *_door(lambda **o: completions_app(MemoryBackend(), authorize=_nobody, **o), "buffer_size", "max_clients"),
    *_door(_broadcast, "buffer_size"),
]


@pytest.mark.parametrize(("door", "name"), [*SECONDS, *COUNTS])
def test_what_is_no_number_is_refused_and_named(door: Callable[..., object], name: str) -> None:
    """Never the interpreter's own error, and never one from deep inside and much later."""
    for value in NO_NUMBERS:
        with pytest.raises(ffc.Validation, match=name):
            door(**{name: value})


@pytest.mark.parametrize(("door", "name"), SECONDS)
def test_seconds_beyond_what_a_clock_holds_are_refused(door: Callable[..., object], name: str) -> None:
    for value in (10**400, Decimal("sNaN")):
        with pytest.raises(ffc.Validation, match=name):
            door(**{name: value})


@pytest.mark.parametrize(("door", "name"), COUNTS)
def test_a_count_is_whole(door: Callable[..., object], name: str) -> None:
    with pytest.raises(ffc.Validation, match=f"{name}: must be a whole number"):
        door(**{name: 2.5})


@given(
    st.one_of(
        st.floats(),
        st.integers(),
        st.decimals(allow_nan=False),
        st.fractions(),
        st.text(),
        st.binary(),
        st.booleans(),
        st.none(),
    )
)
def test_seconds_are_what_a_clock_can_take(value: object) -> None:
    """Whatever is handed in: a float from 0 to the most, or ``Validation``."""
    try:
        found = check_seconds("x", value)
    except ffc.Validation:
        assert (
            not isinstance(value, int | float | Decimal | Fraction)
            or isinstance(value, bool)
            or not 0 <= float(value) <= MOST_S
        )
    else:
        assert type(found) is float
        assert 0 <= found <= MOST_S
        assert found == float(value)  # type: ignore[arg-type]  # it is a number, or it would have been refused


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans()), st.integers(0, 5))
def test_counts_are_whole(value: object, least: int) -> None:
    try:
        found = check_count("x", value, least)
    except ffc.Validation:
        assert not isinstance(value, int) or isinstance(value, bool) or value < least
    else:
        assert found == value
        assert type(found) is int


def test_other_things_that_are_handed_in() -> None:
    """One string for many names, and passwords that are none."""
    with pytest.raises(ffc.Validation, match="not one string"):
        ValkeyBackend(VALKEY, lanes="default")
    for make in (lambda: PostgresBackend(POSTGRES, password=5), lambda: ValkeyBackend(VALKEY, password=5)):  # type: ignore[arg-type]  # that is what is tried
        with pytest.raises(ffc.Validation, match="password: a string or a callable"):
            make()
    with pytest.raises(ffc.Validation, match="schema: a name must be a string"):
        PostgresBackend(POSTGRES, schema=5)  # type: ignore[arg-type]  # the same
