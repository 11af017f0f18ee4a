"""Metrics, through the SDK's in-memory reader: each is there, adds up, and never falls; the dashboard asks for no other."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import generate_latest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.contract.stats import BackendState, BackendStats
from ffcompletion.otel import METRICS, metered, observed
from tests import ROOT
from tests.worlds import PostgresWorld, done, some

ID = "{fp:7}:550e8400-e29b-41d4-a716-44665544%04d"


class Metrics:
    """What a collection yields, by name and labels."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def collect(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str) -> float:
        points = self.collect()[name]
        return float(sum(point.value for point in points))


async def test_everything_that_is_counted_is_a_metric_and_adds_up() -> None:
    """By backend and stream; announced = delivered + buffered + filtered + undecided + lost."""
    metrics = Metrics()
    async with MemoryBackend() as backend:
        with observed(backend, "app", provider=metrics.provider):
            stream = metered(
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a")),
                "app",
                "worker",
                provider=metrics.provider,
            )
            for number in range(10):
                backend.emit(ID % number, "success", namespace="a" if number % 2 else "b")
            assert [(await anext(stream)).execution_id for _ in range(3)] == [ID % number for number in (1, 3, 5)]
            found = metrics.collect()
            assert set(found) == set(METRICS)
            stats = stream.stats()
            for name, value in (
                ("messaging.client.consumed.messages", stats.delivered),
                ("ffcompletion.stream.buffered", stats.buffered),
                ("ffcompletion.stream.filtered", stats.filtered),
                ("ffcompletion.backend.received", 10),
                ("ffcompletion.backend.streams", 1),
            ):
                (point,) = found[name]
                assert point.value == value, name
                assert point.attributes["ffcompletion.backend"] == "app"
            assert found["messaging.client.consumed.messages"][0].attributes["ffcompletion.stream"] == "worker"
            states = {
                point.attributes["ffcompletion.state"]: point.value for point in found["ffcompletion.backend.state"]
            }
            assert states == {state.value: int(state is BackendState.LIVE) for state in BackendState}
            (lag,) = found["ffcompletion.lag"]
            assert lag.count >= 1
            assert lag.max < 60
            await stream.aclose()
        assert "ffcompletion.backend.received" not in metrics.collect(), "nothing is observed after the block"


async def test_counters_never_fall_when_streams_come_and_go() -> None:
    """A closed stream's count stays; a gauge's does not."""
    metrics = Metrics()
    async with MemoryBackend() as backend:
        for total in (2, 4, 6):
            async with metered(
                await backend.subscribe_completions(), "app", "worker", provider=metrics.provider
            ) as stream:
                for number in range(3):
                    backend.emit(ID % number, "success")
                for _ in range(2):
                    await anext(stream)
                assert metrics.value("messaging.client.consumed.messages") == total
            await stream.aclose()
            assert metrics.value("messaging.client.consumed.messages") == total
            assert metrics.value("ffcompletion.stream.buffered") == 0


def test_an_sdk_that_is_set_up_later_is_noticed() -> None:
    """By its first collection; in a process of its own, since a provider is set once."""
    program = """
import asyncio
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.delivery.stream import Subscription
from ffcompletion.otel import metered

async def main():
    async with MemoryBackend() as backend, metered(await backend.subscribe_completions(), "app", "w") as stream:
        reader = InMemoryMetricReader()
        for number in range(2):
            backend.emit("{fp:7}:550e8400-e29b-41d4-a716-446655440000", "success")
            await anext(stream)
            if not number:
                metrics.set_meter_provider(MeterProvider([reader]))
                reader.get_metrics_data()
        for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
            if metric.name in ("ffcompletion.lag", "messaging.client.consumed.messages"):
                print(metric.name, *(getattr(p, "count", None) or p.value for p in metric.data.data_points))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert sorted(done.stdout.splitlines()) == ["ffcompletion.lag 1", "messaging.client.consumed.messages 2.0"], (
        done.stderr
    )


async def test_on_a_real_server(postgres: PostgresWorld) -> None:
    """The lag is by the server's clock, a stream of any make is counted."""
    metrics = Metrics()
    async with postgres.backend() as backend:
        with observed(backend, "pg", provider=metrics.provider):
            async with metered(await backend.subscribe_completions(), "pg", "all", provider=metrics.provider) as stream:
                await postgres.announce(*[done() for _ in range(5)])
                assert len(await some(stream, 5)) == 5
                assert stream.cursor is not None
                assert metrics.value("messaging.client.consumed.messages") == 5
                assert metrics.value("ffcompletion.stream.lost") == 0


def _as_prometheus_has_it() -> str:
    """Every metric, spelt by OpenTelemetry's own exporter."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])

    async def once() -> str:
        async with MemoryBackend() as backend:
            with observed(backend, "app", provider=provider):
                async with metered(await backend.subscribe_completions(), "app", "w", provider=provider) as stream:
                    backend.emit(ID % 1, "success", produced_at_ms=1)
                    await anext(stream)
                    return generate_latest().decode()

    try:
        return asyncio.run(once())
    finally:
        provider.shutdown()


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Every metric in it is one of ours, as Prometheus spells it, and the losing ones are all in it."""
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    asked = set(re.findall(r"\b((?:ffcompletion|messaging)_\w+)\{?", " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"])))  # fmt: skip
    known = {re.split(r"[ {]", line)[0] for line in _as_prometheus_has_it().splitlines() if line[:1] != "#"}
    labels = {"ffcompletion_backend", "ffcompletion_stream", "ffcompletion_state"}
    assert asked - labels <= known, asked - known
    assert {
        "ffcompletion_stream_lost_total",
        "ffcompletion_lag_seconds_bucket",
        "ffcompletion_backend_held_age_seconds",
    } <= asked
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in page for name in METRICS)


def test_the_package_needs_no_opentelemetry_and_says_what_is_missing() -> None:
    """Without the extra, nothing of it is imported; asked for, it names the line to run."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\nimport ffcompletion as ffc\n"
        "try:\n    import ffcompletion.otel\nexcept ffc.Unavailable as exc:\n    assert 'ffcompletion[otel]' in str(exc)\n"
        "else:\n    raise SystemExit('imported')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=ROOT)


async def test_without_an_sdk_it_records_nothing_and_works() -> None:
    """The API's own no-op."""

    class Fixed:
        def stats(self) -> BackendStats:
            return BackendStats()

    async with MemoryBackend() as backend:
        with observed(Fixed(), "app"):
            async with metered(await backend.subscribe_completions(), "app", "w") as stream:
                backend.emit(ID % 1, "success", produced_at_ms=int(time.time() * 1000))
                assert (await anext(stream)).outcome == "success"
