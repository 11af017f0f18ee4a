"""The consumer's handle over any source: what is in hand is not yielded yet, in its counters and in its cursor."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.delivery.buffer import Buffer, Hand
from ffcompletion.delivery.stream import Subscription

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"


def payloads(*positions: int) -> list[ffc.CompletionPayload]:
    return [
        ffc.CompletionPayload(ffc.ExecutionId(ID % each), "success", cursor=ffc.StreamCursor.outbox(each))
        for each in positions
    ]


class Source:
    """A buffer, and nothing behind it."""

    def __init__(self) -> None:
        self.buffer = Buffer(1_000)
        self.closed = False
        self.released_count = 0
        self.reached = 0

    def put(self, batch: Sequence[ffc.CompletionPayload]) -> None:
        assert self.buffer.offer(batch)

    def take(self) -> Hand:
        hand = self.buffer.hand(self.buffer.take())
        if hand.batch and hand.batch[-1].cursor is not None:
            self.reached = hand.batch[-1].cursor.position
        return hand

    async def ready(self) -> None:
        await self.buffer.signal.until(lambda: self.closed or bool(self.buffer.size))

    def abort(self) -> None:
        self.closed = True
        self.buffer.wake()

    async def aclose(self) -> None:
        self.abort()
        self.released_count += 1

    @property
    def cursor(self) -> ffc.StreamCursor:
        return ffc.StreamCursor.outbox(self.reached)

    def stats(self) -> ffc.StreamStats:
        return ffc.StreamStats(delivered=self.buffer.taken, buffered=self.buffer.size)


async def test_what_is_in_hand_is_not_yielded_yet() -> None:
    """Neither delivered nor behind the position."""
    source = Source()
    source.put(payloads(1, 2, 3))
    async with Subscription(source, "test") as stream:
        for count in (1, 2, 3):
            assert (await stream.__anext__()).execution_id == ID % count
            assert stream.cursor == ffc.StreamCursor.outbox(count)
            assert stream.stats().delivered == count
    assert stream.cursor == ffc.StreamCursor.outbox(3)


async def test_closing_ends_who_waits_and_what_is_in_hand() -> None:
    """Idempotent, and its position is that of what was yielded."""
    source = Source()
    stream = Subscription(source, "test")
    waiting = asyncio.create_task(stream.next_batch())
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    source = Source()
    source.put(payloads(1, 2, 3))
    stream = Subscription(source, "test")
    await stream.__anext__()
    await stream.aclose()
    assert stream.cursor == ffc.StreamCursor.outbox(1)
    assert repr(stream) == "<test stream, closed>"


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    source = Source()
    async with Subscription(source, "test") as stream:
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        source.put(payloads(1))
        waiting.cancel()
        await asyncio.wait({waiting})
        assert (await anext(stream)).execution_id == ID % 1


async def test_a_consumer_that_never_waits_lets_others_run() -> None:
    """After so many: the reader that feeds it is one of them."""
    source, turns = Source(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with Subscription(source, "test") as stream:
        others = asyncio.create_task(other())
        for _ in range(10):
            source.put(payloads(*range(1, 101)))
            for _ in range(100):
                await anext(stream)
        others.cancel()
    assert 2 <= turns <= 10


async def test_one_that_is_dropped_is_noticed_and_released() -> None:
    source = Source()
    stream = Subscription(source, "test")
    with pytest.warns(ResourceWarning, match="unclosed test stream"):
        del stream
        gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)
    assert (source.closed, source.released_count) == (True, 1)
