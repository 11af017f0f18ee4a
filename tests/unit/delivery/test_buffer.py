"""The bounded buffer, and the signal that wakes its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import ffcompletion as ffc
from ffcompletion.delivery.buffer import MOST_BYTES, Buffer, Signal

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


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


def test_results_count_by_their_bytes() -> None:
    """A batch comes in while fewer than the bound wait, whoever is weighed; with the last of them gone there is room."""
    batch = [ffc.CompletionPayload(ID, "x", bytes(MOST_BYTES // 4))] * 3
    weighed, other = Buffer(100, weighed=True), Buffer(100)
    assert [weighed.offer(batch) for _ in range(4)] == [True, True, False, False]
    assert (weighed.size, weighed.bytes, weighed.room) == (6, 6 * (MOST_BYTES // 4), 0)
    assert [other.offer(batch) for _ in range(4)] == [True] * 4
    weighed.take()
    assert (weighed.size, weighed.room) == (3, 97)
    assert weighed.offer(batch)
    weighed.drop()
    assert (weighed.bytes, weighed.room) == (0, 100)


async def test_signal_wakes_all_and_survives_cancellation() -> None:
    """One cancelled waiter takes nothing from the others; another thread may wake."""
    signal = Signal()
    waiters = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    await asyncio.sleep(0)
    wake: Callable[[], None] = signal.wake
    await asyncio.to_thread(wake)
    await asyncio.wait_for(asyncio.gather(waiters[0], waiters[2]), 20)
