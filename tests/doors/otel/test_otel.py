"""Streams that are metered, and workers whose lag is observed: what it costs, and what is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from opentelemetry.metrics import NoOpMeterProvider

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.delivery.stream import Subscription
from ffcompletion.otel import metered, observed_lag
from tests.doors.otel.test_registry import ID, Metrics


async def test_the_lag_is_sampled_in_a_flood_and_told_in_full_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one value a millisecond, by the clock."""
    metrics, now = Metrics(), [10**18]
    monkeypatch.setattr("ffcompletion.otel._clock_ns", lambda: now[0])
    async with MemoryBackend() as backend:
        async with metered(await backend.subscribe_completions(), "app", "w", provider=metrics.provider) as stream:
            for step, records in ((1_000_000, 5), (100_000, 1)):
                before = sum(point.count for point in metrics.collect().get("ffcompletion.lag", []))
                now[0] += 10**9
                for number in range(5):
                    backend.emit(ID % number, "success", produced_at_ms=10**12 - 250)
                    await anext(stream)
                    now[0] += step
                assert sum(point.count for point in metrics.collect()["ffcompletion.lag"]) - before == records


async def test_how_far_behind_each_consumer_is() -> None:
    """Completions and seconds, of streams and of a worker; the oldest of those with the same names."""
    metrics = Metrics()
    now_ms = time.time_ns() // 1_000_000

    def lags() -> dict[str, tuple[float, float | None]]:
        found = metrics.collect()
        ages = {point.attributes["ffcompletion.stream"]: point.value for point in found["ffcompletion.stream.lag.age"]}
        behind = {point.attributes["ffcompletion.stream"]: point.value for point in found["ffcompletion.stream.lag"]}
        return {name: (count, ages.get(name)) for name, count in behind.items()}

    class Worker:
        lag = ffc.Lag(completions=7, seconds=None)

    worker = Worker()
    async with MemoryBackend() as backend:
        streams = [
            metered(await backend.subscribe_completions(), "app", "w", provider=metrics.provider) for _ in range(2)
        ]
        assert lags() == {"w": (0, 0.0)}
        for number, age_s in enumerate((90, 30)):
            backend.emit(ID % number, "success", produced_at_ms=now_ms - age_s * 1000)
        await anext(streams[0])
        behind, age = lags()["w"]
        assert behind == 3
        assert age is not None
        assert 90 <= age < 120
        with observed_lag(worker, "app", "mailer", provider=metrics.provider):
            assert lags()["mailer"] == (7, None), "not known, and so not told"
            worker.lag = ffc.Lag(completions=1, seconds=5.0)
            assert lags()["mailer"] == (1, 5.0)
        assert "mailer" not in lags()
        for stream in streams:
            await stream.aclose()


async def test_a_worker_s_lag_is_observed(tmp_path: Path) -> None:
    """What ``checkpointed`` gives: the completion in hand is one that has still to be handled."""
    metrics = Metrics()
    async with MemoryBackend() as backend:
        store = ffc.FileCheckpoints(tmp_path / "checkpoint")
        async with ffc.checkpointed(backend, store, "mailer") as completions:
            with observed_lag(completions, "app", "mailer", provider=metrics.provider):
                for number in range(3):
                    backend.emit(ID % number, "success")
                async for _ in completions:
                    assert metrics.value("ffcompletion.stream.lag") == 3
                    break


async def test_a_completion_pays_for_nothing_but_a_look_at_the_clock() -> None:
    """The stream's own coroutine is what is awaited: always without an SDK, and with one but once a millisecond."""
    on = Metrics().provider
    async with MemoryBackend() as backend:
        for provider, wrapped in ((NoOpMeterProvider(), 0), (on, 1)):
            async with metered(await backend.subscribe_completions(), "app", "w", provider=provider) as stream:
                for number in range(4):
                    backend.emit(ID % number, "success")
                asked = [stream.__anext__() for _ in range(4)]
                own = [getattr(each, "cr_code", None) is Subscription.__anext__.__code__ for each in asked]
                assert own.count(False) == wrapped
                assert [(await each).execution_id for each in asked] == [ID % number for number in range(4)]
