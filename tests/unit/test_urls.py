"""``connect``, ``subscribe`` and the assertion: the doors that people come in by."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("mysql://u:sEcReT@h", "unknown scheme 'mysql'"),
        ("memory://x", "takes nothing after it"),
        ("u:sEcReT@h", "no scheme"),
    ],
)
def test_bad_urls(url: str, message: str) -> None:
    """``Validation`` names the fault and the remedy, never the password."""
    with pytest.raises(ffc.Validation) as caught:
        ffc.connect(url)
    assert message in str(caught.value)
    assert "sEcReT" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", "MemoryBackend"),
        ("valkey://h", "ValkeyBackend"),
        ("redis://h", "ValkeyBackend"),
        ("valkeys://h", "ValkeyBackend"),
        ("rediss://h", "ValkeyBackend"),
        ("postgresql://h/d", "PostgresBackend"),
        ("postgres://h/d", "PostgresBackend"),
        ("host=h dbname=d", "PostgresBackend"),
    ],
)
def test_known_schemes(url: str, kind: str) -> None:
    """Each makes its backend, without any I/O."""
    assert type(ffc.connect(url)).__name__ == kind


def test_options_of_another_backend_are_refused() -> None:
    """A name that the backend does not have."""
    with pytest.raises(ffc.Validation, match="the valkey backend has no option 'schema'"):
        ffc.connect("valkey://h", schema="x")
    with pytest.raises(ffc.Validation, match="buffer_size"):
        ffc.connect("valkey://h", buffer_size=0)


@pytest.mark.parametrize(
    ("url", "blocked", "extra"), [("valkey://h", "glide", "valkey"), ("postgresql://h", "psycopg", "postgres")]
)
def test_a_missing_extra_names_the_pip_line(url: str, blocked: str, extra: str) -> None:
    """In a fresh interpreter that cannot import the driver."""
    program = f"import sys; sys.modules[{blocked!r}] = None\nimport ffcompletion as f\ntry: f.connect({url!r})\nexcept f.Unavailable as e: print(e)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'ffcompletion[{extra}]'" in done.stdout


@pytest.mark.parametrize(
    "door", ["f.connect(url)", "asyncio.run(producers.install(url))", "asyncio.run(doctor.examine(url))"]
)
def test_a_driver_that_is_there_and_cannot_be_loaded_says_why(door: str) -> None:
    """Without libpq, as where only the pure Python part was installed: the driver's own reason, never "None"."""
    program = (
        "import asyncio, ffcompletion as f\nfrom ffcompletion import doctor, producers\nurl = 'postgresql://h/d'\n"
        f"try: {door}\nexcept f.Unavailable as e: print(e)"
    )
    env = {**os.environ, "PSYCOPG_IMPL": "c"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert "None" not in done.stdout, done.stdout
    assert "couldn't import requested psycopg 'c'" in done.stdout
    assert "pip install 'ffcompletion[postgres]'" in done.stdout


def test_importing_loads_no_driver() -> None:
    """Neither glide nor psycopg, typer, rich, asyncio servers or anything of theirs."""
    program = "import sys, ffcompletion; print([m for m in sys.modules if m.split('.')[0] in ('asyncio','glide','glide_shared','psycopg','psycopg_pool','typer','rich')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Duck:
    """A backend by structure: nothing inherited."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed = False

    async def _stream(self) -> AsyncIterator[ffc.CompletionPayload]:
        try:
            for number in range(3):
                yield ffc.CompletionPayload(ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000"), str(number))
        finally:
            self.closed = True

    async def subscribe_completions(self) -> ffc.CompletionStream:
        self.calls.append("plain")
        return ffc.stream_of(self._stream())

    async def subscribe_completions_filtered(self, filter: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        self.calls.append("filtered")
        return ffc.stream_of(self._stream())


class Inherits(ffc.CompletionBackend):
    """One that implements a single method."""

    @override
    async def subscribe_completions(self, /) -> ffc.CompletionStream:
        return await Duck().subscribe_completions()


async def test_the_inherited_default_refuses() -> None:
    """A no-op is served, any other filter is refused: never an unfiltered stream."""
    backend = Inherits()
    ffc.assert_completion_backend(backend)
    await (await backend.subscribe_completions_filtered(ffc.ScannerFilter.NOOP)).aclose()
    with pytest.raises(ffc.Unavailable, match="does not implement filtering"):
        await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))


class _Faulty:
    subscribe_completions: Any
    subscribe_completions_filtered: Any


def _faulty(plain: Any, filtered: Any) -> object:
    made = _Faulty()
    if plain is not None:
        made.subscribe_completions = plain
    if filtered is not None:
        made.subscribe_completions_filtered = filtered
    return made


async def _good() -> None: ...


async def _good_filtered(filter: object, /) -> None: ...


async def _generator() -> AsyncIterator[int]:
    yield 1


async def _wants_more(one: object, two: object) -> None: ...


async def _keyword_only(*, filter: object) -> None: ...


@pytest.mark.parametrize(
    ("backend", "messages"),
    [
        (_faulty(None, None), ["subscribe_completions is missing", "subscribe_completions_filtered is missing"]),
        (_faulty(lambda: None, _good_filtered), ["must be `async def`"]),
        (_faulty(_generator, _good_filtered), ["async generator"]),
        (_faulty(_good, 7), ["is a int, not a method"]),
        (_faulty(_good, _wants_more), ["exactly one positional argument"]),
        (_faulty(_good, _keyword_only), ["exactly one positional argument"]),
        (_faulty(_good_filtered, _good), ["no arguments", "exactly one positional argument"]),
        (Duck, ["make an instance first"]),
    ],
)
def test_the_assertion_lists_every_fault(backend: object, messages: list[str]) -> None:
    """``TypeError``, with each of them."""
    with pytest.raises(TypeError) as caught:
        ffc.assert_completion_backend(backend)
    for message in messages:
        assert message in str(caught.value)


def test_the_assertion_looks_through_partials() -> None:
    """A bound or partial coroutine function is one."""
    ffc.assert_completion_backend(_faulty(partial(_good_filtered, 1), partial(_good_filtered)))


async def test_a_backend_in_use_on_another_loop_is_refused() -> None:
    """Clearly, instead of a hang."""
    from ffcompletion.backends.postgres import PostgresBackend

    backend = PostgresBackend("host=/nonexistent")
    with pytest.raises(ffc.EngineError):
        await backend.subscribe_completions()

    def elsewhere() -> None:
        async def work() -> None:
            with pytest.raises(ffc.Transport):
                await backend.subscribe_completions()

        asyncio.run(work())

    # Nothing is open, so another loop may take over.
    await asyncio.to_thread(elsewhere)
