"""Backoff, heartbeat, connection state, buffer, spans: decisions without I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres.spans import merged, missing, union, without
from ffcompletion.contract.stats import BackendEvent, BackendState
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.buffer import Buffer, Signal
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.heartbeat import Heartbeat
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger
from tests.worlds import done, some

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_backoff_grows_is_capped_and_jitters(dice: list[float]) -> None:
    """Each delay lies between half and all of min(cap, base·2ⁿ)."""
    rolls = iter(dice)
    backoff = Backoff(0.1, 3.0, lambda: next(rolls))
    for attempt in range(len(dice)):
        ceiling = min(3.0, 0.1 * 2.0 ** min(attempt, 64))
        assert ceiling / 2 <= backoff.next_delay() <= ceiling
    backoff.reset()
    assert backoff.attempt == 0


def test_backoff_outlasts_days() -> None:
    """Thousands of attempts do not overflow."""
    backoff = Backoff(random=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(3000)][-1] == 5.0
    with pytest.raises(ValueError, match="cap"):
        Backoff(2, 1)


def test_heartbeat_sends_hears_and_expires() -> None:
    """One echo at a time; a late or foreign one proves nothing."""
    heart = Heartbeat(0.0, interval_s=3, deadline_s=1)
    assert heart.due(0.0) == "1"
    assert heart.due(0.5) is None
    assert not heart.received("7", 0.5)
    assert heart.received("1", 0.5)
    assert not heart.received("1", 0.6)
    assert heart.next_at == 3.5
    assert heart.due(3.4) is None
    assert heart.due(3.5) == "2"
    assert not heart.expired(4.4)
    assert heart.expired(4.5)
    heart.restart(5.0)
    assert not heart.waiting
    assert heart.next_at == 8.0


def test_connection_state_tells_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred failed attempts of one kind are one line; coming back resets the backoff and counts."""
    heard: list[BackendEvent] = []
    caplog.set_level(logging.DEBUG)
    state_of = ConnectionState("x", logger("ffcompletion.test"), heard.append, Backoff(random=lambda: 1.0))
    state_of.connecting()
    state_of.live()
    delays = [state_of.broken("gone") for _ in range(100)]
    assert delays[0] == 0.05
    assert delays[-1] == 5.0
    state_of.live()
    assert state_of.broken("again") == 0.05
    state_of.closed()
    state_of.live()
    states = [event.state for event in heard]
    assert states == [
        BackendState.CONNECTING,
        BackendState.LIVE,
        BackendState.RECONNECTING,
        BackendState.LIVE,
        BackendState.RECONNECTING,
        BackendState.CLOSED,
    ]
    assert len(caplog.records) == len(states)
    assert state_of.reconnects == 1


def test_ratelog_bounds_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    """The first at once, then one a span, with the number since."""
    now = [0.0]
    log = RateLog(logger("ffcompletion.test"), 10, lambda: now[0])
    for tick in range(1001):
        now[0] = tick / 50
        log.warning("bad")
    assert [record.getMessage() for record in caplog.records] == [
        "bad (1 since the last line)",
        "bad (500 since the last line)",
        "bad (500 since the last line)",
    ]


IDS = st.sets(st.integers(1, 60))


def _spans(ids: set[int]) -> list[tuple[int, int]]:
    return merged([(i, i) for i in sorted(ids)], slack=1)


def test_spans_are_merged_up_to_a_length() -> None:
    """Close ones are joined, but not into one that is too long; a long one stays as it is."""
    spans = [(1, 1), (5, 6), (9, 12), (40, 40), (41, 99)]
    assert merged(spans, slack=5) == [(1, 12), (40, 99)]
    assert merged(spans, slack=5, longest=10) == [(1, 6), (9, 12), (40, 40), (41, 99)]


def _ids(spans: list[tuple[int, int]]) -> set[int]:
    return {i for low, high in spans for i in range(low, high + 1)}


@given(IDS, IDS)
def test_spans_are_sets(one: set[int], other: set[int]) -> None:
    """Union and difference agree with Python's sets, and stay ascending and disjoint."""
    for got, expected in (
        (union(_spans(one), _spans(other)), one | other),
        (without(_spans(one), _spans(other)), one - other),
    ):
        assert _ids(got) == expected
        assert got == sorted(got)
        assert all(a[1] < b[0] for a, b in pairwise(got))
    if one:
        assert _ids(missing(sorted(one))) == set(range(min(one), max(one) + 1)) - one


class BufferMachine(RuleBasedStateMachine):
    """The bounded buffer against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(10)
        self.model: list[int] = []
        self.next = 0

    @rule(count=st.integers(0, 14))
    def offer(self, count: int) -> None:
        batch = [ffc.CompletionPayload(ID, "x", None, self.next + i) for i in range(count)]
        taken = self.buffer.offer(batch, ffc.StreamCursor.outbox(self.next + count))
        assert taken == (not count or not self.model or len(self.model) + count <= 10)
        if taken:
            self.model += [p.produced_at_ms for p in batch]
            self.next += count

    @rule()
    def take(self) -> None:
        got = [p.produced_at_ms for p in self.buffer.take()]
        assert got == self.model[: len(got)]
        assert bool(got) == bool(self.model)
        del self.model[: len(got)]
        if got and not self.model:
            assert self.buffer.cursor == ffc.StreamCursor.outbox(self.next)

    @rule()
    def drop(self) -> None:
        assert self.buffer.drop() == len(self.model)
        self.model.clear()

    @invariant()
    def sizes_agree(self) -> None:
        assert self.buffer.size == len(self.model)


TestBuffer = BufferMachine.TestCase


async def test_signal_wakes_all_and_survives_cancellation() -> None:
    """One cancelled waiter takes nothing from the others; another thread may wake."""
    signal = Signal()
    waiters = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    await asyncio.sleep(0)
    wake: Callable[[], None] = signal.wake
    await asyncio.to_thread(wake)
    await asyncio.wait_for(asyncio.gather(waiters[0], waiters[2]), 1)


async def test_memory_retention_is_bounded_and_told() -> None:
    """Behind the log's end: the oldest pass by, counted."""
    from ffcompletion.backends.memory import MemoryBackend

    async with MemoryBackend(retention=10) as backend, ffc.subscribe(backend) as stream:
        for number in range(25):
            backend.emit(ID, produced_at_ms=number)
        assert [(await stream.__anext__()).produced_at_ms for _ in range(10)] == list(range(15, 25))
        stats = stream.stats()
        assert (stats.lost, stats.overflows, stats.delivered) == (15, 1, 10)


async def test_memory_emitting_on_another_thread() -> None:
    """While the stream is read: nothing skipped, nothing twice."""
    sent: list[str] = []
    async with MemoryBackend() as backend, ffc.subscribe(backend) as stream, asyncio.TaskGroup() as group:

        def emit() -> None:
            sent.extend(backend.emit(done().execution_id).execution_id for _ in range(20_000))

        group.create_task(asyncio.to_thread(emit))
        got = [completion.execution_id for completion in await some(stream, 20_000, 30)]
    assert got == sent
