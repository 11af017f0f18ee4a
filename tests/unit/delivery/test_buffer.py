"""The bounded buffer, and the signal that wakes its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import ffcompletion as ffc
from ffcompletion.delivery.buffer import MOST_BYTES, Buffer, Hand, Room, Signal

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


class BufferMachine(RuleBasedStateMachine):
    """The bounded buffer against a plain list: what waits, what is in hand and what is kept beside are ten together."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(10)
        self.model: list[int] = []
        self.hand = Hand()
        self.next = 0

    @rule(count=st.integers(0, 14))
    def offer(self, count: int) -> None:
        batch = [ffc.CompletionPayload(ID, "x", None, self.next + i) for i in range(count)]
        room = self.buffer.room.items
        assert room == 10 - len(self.model) - self.hand.left - self.buffer.beside
        taken = self.buffer.offer(batch, ffc.StreamCursor.outbox(self.next + count))
        assert taken == (count <= room)
        if taken:
            self.model += [p.produced_at_ms for p in batch]
            self.next += count

    @rule(count=st.integers(0, 10))
    def keep_beside(self, count: int) -> None:
        self.buffer.beside = min(count, self.buffer.room.items + self.buffer.beside)

    @rule()
    def yield_one(self) -> None:
        next(self.hand.items, None)

    @rule()
    def take(self) -> None:
        self.hand = self.buffer.hand(self.buffer.take())
        got = [p.produced_at_ms for p in self.hand.batch]
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
        assert self.buffer.size + self.hand.left + self.buffer.beside <= 10


TestBuffer = BufferMachine.TestCase


def _of(size: int | None) -> ffc.CompletionPayload:
    return ffc.CompletionPayload(ID, "x", None if size is None else bytes(size))


def test_results_count_by_their_bytes() -> None:
    """Also those in hand, whoever is weighed; and what is larger than all the room comes when nothing else is there."""
    quarter = _of(MOST_BYTES // 4)
    weighed, other = Buffer(100, weighed=True), Buffer(100)
    assert [weighed.offer([quarter, _of(None)]) for _ in range(5)] == [True, True, True, True, False]
    assert (weighed.size, weighed.bytes, weighed.room) == (8, MOST_BYTES, Room(92, 0, alone=False))
    assert weighed.offer([_of(None)])
    assert [other.offer([quarter]) for _ in range(5)] == [True] * 5
    hand = weighed.hand(weighed.take())
    assert list(hand.items) == list(hand.batch)
    assert not weighed.offer([quarter])
    weighed.hand(weighed.take())
    assert not weighed.at_ease
    weighed.hand(weighed.take())
    assert weighed.offer([quarter])
    large = _of(MOST_BYTES + 1)
    assert not weighed.offer([large])
    assert weighed.drop() == 4
    assert weighed.room == Room(98, MOST_BYTES - MOST_BYTES // 4, alone=False)
    assert not weighed.offer([large])
    weighed.hand(weighed.take())
    assert weighed.fit([_of(None), large, quarter]) == 2
    assert not weighed.offer([large, large])
    assert weighed.offer([large])
    assert (weighed.room.bytes, weighed.room.alone, weighed.fit([_of(None), _of(1)])) == (0, False, 1)


@given(st.lists(st.none() | st.integers(0, 40), max_size=12), st.integers(0, 12), st.integers(0, 100), st.booleans())
def test_what_fits_is_as_much_as_there_is_room_for(sizes: list[int | None], items: int, most: int, alone: bool) -> None:
    """The longest beginning that is within both bounds; or with a single result, if it holds none."""

    def within(count: int) -> bool:
        weights = [size for size in sizes[:count] if size]
        return count <= items and (sum(weights) <= most or (alone and len(weights) == 1))

    assert Room(items, most, alone).fit(sizes) == max(count for count in range(len(sizes) + 1) if within(count))


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


async def test_what_changes_between_the_look_and_the_wait_is_seen() -> None:
    """On another thread it may: nobody is registered to be woken yet, and nobody wakes once more."""
    looks = iter((False, True, True))
    await asyncio.wait_for(Signal().until(lambda: next(looks)), 20)
