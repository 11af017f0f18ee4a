"""What a careless program hands in beside others, in the same process: made plain, or refused, before anybody sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.otel import metered, observed, observed_lag
from ffcompletion.web.channel import Channel
from tests.worlds import World, done, some
from tests.worlds.equal import EqualText


class NoText(str):
    __slots__ = ()

    @override
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = str.__hash__


class NoNumber(int):
    @override
    def __rsub__(self, other: int) -> int:
        raise ZeroDivisionError

    @override
    def __truediv__(self, other: int) -> float:
        raise ZeroDivisionError


class Changing(dict[str, str]):
    @override
    def items(self) -> Any:
        return [("k", "x")]

    @override
    def __getitem__(self, key: str) -> str:
        return "v"


_TAKEN: list[dict[str, Any]] = [
    {"namespace": EqualText("z"), "tags": {"k": "v"}},
    {"namespace": NoText("z"), "tags": {"k": "v"}},
    {"namespace": "a", "tags": {"k": EqualText("x")}},
    {"namespace": "a", "tags": {"k": NoText("x")}},
    {"namespace": "a", "tags": {EqualText("j"): "v"}},
    {"namespace": "a", "tags": Changing(k="v")},
    {"outcome": NoText("success")},
    {"produced_at_ms": NoNumber(5)},
    {"payload_bytes": bytearray(b"x")},
]
_REFUSED: list[dict[str, Any]] = [
    {"namespace": 3},
    {"tags": ["k"]},
    {"tags": {"k": 3}},
    *({"outcome": outcome} for outcome in (None, ["success"], "\ud800", 3)),
    *({"produced_at_ms": ms} for ms in ("soon", 10**400, float("nan"), 1 << 63, True)),
    *({"payload_bytes": result} for result in ("abc", 5, [1])),
]


@pytest.mark.parametrize("fields", _TAKEN, ids=str)
async def test_what_is_emitted_is_made_plain(fields: dict[str, Any]) -> None:
    """Text that says that it is equal to all was everybody's; a number that cannot be counted with raised in the others."""
    async with MemoryBackend() as backend:
        everything = await backend.subscribe_completions(results=True)
        mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v")))
        backend.emit(done().execution_id, **fields)
        for stream in (everything, mine):
            stream.stats()
        last = backend.emit(done().execution_id, namespace="a", tags={"k": "v"})
        assert await some(mine, 1) == [last]
        got = await some(everything, 2)
        assert got[1] == last
        assert type(got[0].outcome) is str
        assert type(got[0].produced_at_ms) is int
        assert got[0].payload_bytes is None or type(got[0].payload_bytes) is bytes
        assert got[0].kind


@pytest.mark.parametrize("fields", _REFUSED, ids=str)
async def test_what_no_server_could_hold_is_refused(fields: dict[str, Any]) -> None:
    async with MemoryBackend() as backend:
        stream = await backend.subscribe_completions(results=True)
        with pytest.raises(ffc.Validation):
            backend.emit(done().execution_id, **fields)
        assert stream.stats().lag.completions == 0


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Slow:
    tag_key = None

    def is_noop(self) -> bool:
        return False

    def matches(self, namespace: str | None, tag: str | None) -> bool:
        time.sleep(0.001)
        return False


async def test_a_stream_that_admits_little_of_a_long_log_gives_the_others_their_turns() -> None:
    """It went through all of the log first: 10,000 of them at a millisecond each."""
    async with MemoryBackend() as backend:
        for _ in range(10_000):
            backend.emit(done().execution_id, namespace="b")
        slow = await backend.subscribe_completions_from(ffc.StreamCursor.beginning(), Slow())
        victim = await backend.subscribe_completions()
        reading = asyncio.create_task(some(slow, 1))
        await asyncio.sleep(0)
        began = time.monotonic()
        backend.emit(done().execution_id)
        await some(victim, 1)
        assert time.monotonic() - began < 5
        assert not reading.done()
        await slow.aclose()
        with pytest.raises(StopAsyncIteration):
            await reading


async def test_somebodys_own_filter_is_asked_about_few_before_others_have_a_turn(world: World) -> None:
    if not world.resumable:
        pytest.skip("nothing is stored")
    asked = most = 0

    def counts(namespace: str | None, tag: str | None) -> bool:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        return False

    async def turns() -> None:
        nonlocal asked
        while True:
            asked = 0
            await asyncio.sleep(0)

    async with world.backend() as backend:
        await world.announce(*(done(namespace="a") for _ in range(300)))
        turning = asyncio.create_task(turns())
        wanted = ffc.matching(counts)
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stream:
            reading = asyncio.create_task(some(stream, 1))
            async with asyncio.timeout(30):
                while stream.stats().filtered < 300:
                    await asyncio.sleep(0.01)
        turning.cancel()
        await asyncio.wait([turning, reading])
        assert 0 < most <= 64


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Unwell:
    @property
    def lag(self) -> ffc.Lag:
        raise SystemExit

    def stats(self) -> ffc.BackendStats:
        raise ZeroDivisionError


async def test_what_cannot_be_observed_takes_nobody_elses_numbers_away() -> None:
    """One that raised took the metric from all; so did a name of which no stream was left, and the end of a second block."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def points(name: str) -> set[str]:
        data = reader.get_metrics_data()
        assert data is not None
        return {
            str(dict(point.attributes or {}).get("ffcompletion.stream", "backend"))
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    async with MemoryBackend() as backend:
        gone = metered(await backend.subscribe_completions(), "app", "gone", provider=provider)
        await gone.aclose()
        stream = metered(await backend.subscribe_completions(), "app", "worker", provider=provider)
        backend.emit(done().execution_id)
        with observed(backend, "app", provider=provider):
            with observed(backend, "app", provider=provider):
                pass
            with (
                observed(Unwell(), "unwell", provider=provider),
                observed_lag(Unwell(), "app", "unwell", provider=provider),
            ):
                assert points("ffcompletion.stream.lag") >= {"worker"}
                assert points("ffcompletion.stream.lag.age") == {"worker"}
                assert points("ffcompletion.backend.received") == {"backend"}
                assert points("ffcompletion.backend.state") == {"backend"}
        await stream.aclose()


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Reader:
    """A backend of somebody's own, that answers what it likes."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> Any:
        return self._answer()

    async def describe_executions(self, execution_ids: Any, /, *, result: bool = False) -> Any:
        return self._answer()


def _raises() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("answer", [_raises, list, lambda: None, lambda: [3]])
async def test_clients_of_a_channel_that_fails_are_let_go(answer: Callable[[], Any]) -> None:
    """They stayed connected, and nothing came any more; so they come back, and are told."""
    async with MemoryBackend() as backend:
        stream = await backend.subscribe_completions()
        channel = Channel(stream, buffer_size=10, resumable=True, share=None, namespace=None, reader=_Reader(answer))
        outbox = channel.join()
        assert outbox is not None
        backend.emit(done().execution_id)
        async with asyncio.timeout(5):
            while not outbox.ended:
                outbox.take()
                await outbox.ready(1)
        assert channel.ended
        await channel.aclose()
