"""The log in memory: bounded, and written by any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.delivery.buffer import MOST_BYTES
from ffcompletion.delivery.stream import Subscription
from tests.worlds import done, some

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


class Counted(list[Any]):
    """A list that counts the entries that are looked at."""

    steps = 0

    @override
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.steps += len(found) if isinstance(at, slice) else 1
        return found

    @override
    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.steps += 1
            yield item


async def test_retention_is_bounded_and_told() -> None:
    """Behind the log's end: the oldest pass by, counted."""
    async with MemoryBackend(retention=10) as backend, ffc.subscribe(backend) as stream:
        for number in range(25):
            backend.emit(ID, produced_at_ms=number)
        assert len(backend._records.entries) == 10
        assert [(await stream.__anext__()).produced_at_ms for _ in range(10)] == list(range(15, 25))
        stats = stream.stats()
        assert (stats.lost, stats.overflows, stats.delivered) == (15, 1, 10)


@pytest.mark.parametrize("retention", [1, 7, 1_000])
async def test_every_position_of_a_log_that_went_round(retention: int) -> None:
    """From each that is still kept: everything behind it, in order, whatever the pieces."""
    async with MemoryBackend(retention=retention, buffer_size=3) as backend:
        emitted = [backend.emit(ID, produced_at_ms=number) for number in range(25)]
        for at, last in enumerate(emitted[-retention:], max(1, 25 - retention + 1)):
            assert last.cursor is not None
            async with ffc.subscribe(backend, cursor=last.cursor) as stream:
                assert [item.produced_at_ms for item in await some(stream, 25 - at)] == list(range(at, 25))
                assert stream.stats().lost == 0


async def test_catching_up_looks_at_each_entry_once() -> None:
    """Twenty thousand entries, by streams from the beginning and from a position, of a log that is full or is not."""
    count = 20_000
    for retention in (count, count // 2 + 1):
        async with MemoryBackend(retention=retention) as backend:
            emitted = [backend.emit(ID, produced_at_ms=number) for number in range(count)]
            entries = backend._records.entries = Counted(backend._records.entries)
            for cursor in (ffc.StreamCursor.beginning(), emitted[-5_000].cursor):
                assert cursor is not None
                entries.steps = 0
                async with ffc.subscribe(backend, cursor=cursor) as stream:
                    came = 0
                    while stream.stats().buffered:
                        await anext(stream)
                        came += 1
                # Each once as it is taken; and the look at the oldest, for `stats()`, is one more.
                assert came in (count, retention, 4_999)
                assert entries.steps <= 2 * came + 10


async def test_a_consumer_has_no_more_bytes_in_hand_than_a_stream_may_hold() -> None:
    """Few at a time where results are large, and one that is larger than all of that alone."""
    large, larger = bytes(MOST_BYTES // 3), bytes(MOST_BYTES + 1)
    async with MemoryBackend() as backend, ffc.subscribe(backend, results=True) as stream:
        for result in (large, large, large, large, larger, b"", None, large):
            backend.emit(ID, payload_bytes=result)
        sizes: list[int] = []
        for _ in range(8):
            await anext(stream)
            assert isinstance(stream, Subscription)
            sizes.append(sum(len(item.payload_bytes or b"") for item in stream._hand.batch))
        assert sizes == [len(large) * 3] * 3 + [len(large)] + [len(larger)] * 3 + [len(large)]


async def test_emitting_on_another_thread() -> None:
    """While the stream is read: nothing skipped, nothing twice."""
    sent: list[str] = []
    async with MemoryBackend() as backend, ffc.subscribe(backend) as stream, asyncio.TaskGroup() as group:

        def emit() -> None:
            sent.extend(backend.emit(done().execution_id).execution_id for _ in range(20_000))

        group.create_task(asyncio.to_thread(emit))
        got = [completion.execution_id for completion in await some(stream, 20_000, 30)]
    assert got == sent


class Sums(RuleBasedStateMachine):
    """What was announced to a stream is somewhere, at any moment, and no counter runs backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.backend = MemoryBackend(retention=10, buffer_size=4)
        # Each stream, how many were announced to it, and its counters when they were last looked at.
        self.streams: dict[Subscription, list[Any]] = {}

    @rule(wanted=st.sampled_from([ffc.ScannerFilter.NOOP, ffc.ScannerFilter("a"), ffc.ScannerFilter(None, ("k", "v"))]))
    def subscribe(self, wanted: ffc.ScannerFilter) -> None:
        stream = self.loop.run_until_complete(self.backend.subscribe_completions_filtered(wanted))
        self.streams[stream] = [0, ffc.StreamStats(), False]

    @rule(count=st.integers(1, 15), namespace=st.sampled_from("ab"), tagged=st.booleans())
    def emit(self, count: int, namespace: str, tagged: bool) -> None:
        for _ in range(count):
            self.backend.emit(done().execution_id, namespace=namespace, tags={"k": "v"} if tagged else {})
        for known in self.streams.values():
            known[0] += 0 if known[2] else count

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 9), count=st.integers(1, 9))
    def read(self, which: int, count: int) -> None:
        stream = list(self.streams)[which % len(self.streams)]

        async def some_of_it() -> None:
            for _ in range(count):
                waiting = asyncio.ensure_future(anext(stream, None))
                for _ in range(10):
                    await asyncio.sleep(0)
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    return

        self.loop.run_until_complete(some_of_it())

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 9))
    def close(self, which: int) -> None:
        stream = list(self.streams)[which % len(self.streams)]
        self.loop.run_until_complete(stream.aclose())
        self.streams[stream][2] = True

    @invariant()
    def the_sum_holds(self) -> None:
        for stream, known in self.streams.items():
            stats = stream.stats()
            handled = stats.delivered + stats.filtered + stats.undecided + stats.lost
            assert handled + stats.lag.completions == known[0]
            assert stats.catching_up or handled + stats.buffered == known[0]
            before: ffc.StreamStats = known[1]
            for name in ("delivered", "filtered", "undecided", "lost", "overflows"):
                assert getattr(stats, name) >= getattr(before, name), name
            known[1] = stats

    @override
    def teardown(self) -> None:
        self.loop.run_until_complete(self.backend.aclose())
        self.loop.close()


TestSums = Sums.TestCase
