"""What metrics cost a completion: a stream as it is, metered without an SDK, and metered with one that records."""

from __future__ import annotations

import asyncio
import time
from typing import Self

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import ffcompletion as ffc
from benchmarks.table import Row, consume, median
from ffcompletion.contract.stats import StreamStats
from ffcompletion.otel import metered

_COUNT = 100_000
_ROUNDS = 9
_ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"


class _Bare:
    """A stream that costs next to nothing itself, so that what metering adds is not lost in it."""

    def __init__(self) -> None:
        self._item = ffc.CompletionPayload(ffc.ExecutionId(_ID), "success", None, time.time_ns() // 1_000_000)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        return self._item

    def stats(self) -> StreamStats:
        return StreamStats()

    async def aclose(self) -> None:
        return


async def _seconds(kind: str) -> float:
    stream: ffc.CompletionStream = _Bare()
    if kind != "bare":
        stream = metered(stream, "bench", kind, provider=_ON if kind == "on" else _OFF)
    started = time.perf_counter()
    await consume(stream, _COUNT)
    taken = time.perf_counter() - started
    await stream.aclose()
    return taken


_OFF = NoOpMeterProvider()
_ON = MeterProvider([InMemoryMetricReader()])


async def run(_: str) -> list[Row]:
    """In turns, so that whatever the machine does meets all three alike; what is told is the median of differences."""
    rounds = [{kind: await _seconds(kind) for kind in ("bare", "off", "on")} for _ in range(_ROUNDS)]
    _ON.shutdown()

    def added(kind: str) -> str:
        return f"{median([(each[kind] - each['bare']) / _COUNT * 1e6 for each in rounds]):.3f} µs"

    bare = f"{median([each['bare'] / _COUNT * 1e6 for each in rounds]):.3f} µs"
    return [
        Row(what="metrics, added to a completion, no SDK", ours=added("off"), bare=bare, floor="0.1 µs", goal="0.1 µs"),
        Row(
            what="metrics, added to a completion, recorded", ours=added("on"), bare=bare, floor="0.5 µs", goal="0.5 µs"
        ),
    ]


if __name__ == "__main__":
    for row in asyncio.run(run("")):
        print(row.what, row.ours, "on top of", row.bare)
