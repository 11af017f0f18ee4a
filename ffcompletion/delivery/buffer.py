"""A bounded queue of batches between a hub and one consumer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import seconds_since

__all__ = ["MOST_BYTES", "Buffer", "Hand", "Room", "Signal", "resolve", "sizes_of", "weight"]

MOST_BYTES: Final = 32 << 20
"""Of results that one stream holds; a single one that is larger, it holds alone."""


@final
class Signal:
    """Wakes whoever waits. Callable from any thread; a waiter that is cancelled takes nothing from the others."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Wake every task that waits now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            loop = waiter.get_loop()
            if loop is asyncio._get_running_loop():  # pyright: ignore[reportPrivateUsage]  # the documented call raises, at ten times the cost
                resolve(waiter)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(resolve, waiter)

    async def wait(self) -> None:
        """Wait for the next ``wake``. Only where nothing else runs between the look at the state and this call."""
        await self._wait(lambda: False)

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait until ``so()``, which is looked at now and after each ``wake``. Whoever changes it wakes afterwards.

        Safe where it is changed on another thread: it is looked at once more behind the waiter's registration.
        """
        while not so():
            await self._wait(so)

    async def _wait(self, so: Callable[[], bool]) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            if not so():
                await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def resolve(waiter: asyncio.Future[None]) -> None:
    """Wake who waits, unless he has gone."""
    if not waiter.done():
        waiter.set_result(None)


def sizes_of(batch: Iterable[CompletionPayload]) -> list[int | None]:
    """Bytes of each one's result; None where it has none."""
    return [None if item.payload_bytes is None else len(item.payload_bytes) for item in batch]


def weight(batch: Sequence[CompletionPayload]) -> int:
    """Bytes of the results in it."""
    return sum(len(item.payload_bytes) for item in batch if item.payload_bytes is not None)


@final
class Hand:
    """A batch that a consumer was handed, and what of it is still to be yielded."""

    __slots__ = ("batch", "items")

    def __init__(self, batch: Sequence[CompletionPayload] = ()) -> None:
        self.batch: Sequence[CompletionPayload] = batch
        self.items: Iterator[CompletionPayload] = iter(batch)
        """Whoever yields takes from here."""

    @property
    def left(self) -> int:
        """How many are still to be yielded."""
        return length_hint(self.items)


@final
class Room(msgspec.Struct, frozen=True, gc=False):
    """How much more a stream may hold."""

    items: int
    bytes: int = MOST_BYTES
    """Of results."""
    alone: bool = True
    """It holds no result now: one fits, whatever its size."""

    def fit(self, sizes: Sequence[int | None]) -> int:
        """How many completions with results of these sizes fit, from the first on; None is one without a result."""
        most = min(len(sizes), self.items)
        total, found = 0, False
        for count, size in enumerate(sizes[:most]):
            if size:
                total += size
                if total > self.bytes and (found or not self.alone):
                    return count
                found = True
        return most

    def half(self) -> Room:
        """Half of it, and something unless there is nothing."""
        return Room((self.items + 1) // 2, self.bytes // 2, self.alone)


@final
class Buffer:
    """Batches waiting for one consumer, and the account of all that its stream holds: at most ``limit`` completions.

    What is held is what waits here, what of the last batch is not yielded yet, and what the stream says it has
    ``beside``. ``weighed``: results count too, by their bytes, at most ``MOST_BYTES`` of them.

    Batches are shared between the buffers of many streams and never copied, so a buffer costs its own references.
    """

    __slots__ = (
        "_hand",
        "_hand_bytes",
        "_limit",
        "_queue",
        "_weighed",
        "beside",
        "beside_bytes",
        "bytes",
        "cursor",
        "reserved_alone",
        "signal",
        "size",
        "taken",
    )

    def __init__(self, limit: int, *, weighed: bool = False) -> None:
        self._limit = limit
        self._weighed = weighed
        self._hand = Hand()
        self._hand_bytes = 0
        self.beside: int = 0
        """Completions that the stream holds elsewhere."""
        self.beside_bytes: int = 0
        """Bytes of their results."""
        self.bytes: int = 0
        """Bytes of results waiting, where they are weighed."""
        self.reserved_alone: bool = False
        """Whether what is reserved may be filled by one result, of any size."""
        self._queue: deque[tuple[Sequence[CompletionPayload], StreamCursor | None, float]] = deque()
        self.signal: Signal = Signal()
        self.size: int = 0
        """Completions waiting."""
        self.taken: int = 0
        """Completions handed to the consumer so far."""
        self.cursor: StreamCursor | None = None
        """Where to resume once everything taken has been consumed."""

    def offer(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None = None) -> bool:
        """Append a batch; ``cursor`` is the position after it. False, and nothing is appended, if it does not fit."""
        count = len(batch)
        if not count:
            self._advance(cursor)
            return True
        if count > self._free or (self._weighed and not self.fits(batch)):
            return False
        self.size += count
        if self._weighed:
            self.bytes += weight(batch)
        self._queue.append((batch, cursor, time.monotonic()))
        self.signal.wake()
        return True

    @property
    def _free(self) -> int:
        # Below zero where more is held beside it than there was room for.
        return self._limit - self.size - self.beside - self._hand.left

    @property
    def room(self) -> Room:
        """How much more fits."""
        held = self.bytes + self.beside_bytes + self._hand_bytes
        return Room(max(0, self._free), max(0, MOST_BYTES - held), not held)

    @property
    def at_ease(self) -> bool:
        """Half of it is free."""
        room = self.room
        return room.items * 2 >= self._limit and room.bytes * 2 >= MOST_BYTES

    def fit(self, batch: Sequence[CompletionPayload]) -> int:
        """How many of these fit, from the first on."""
        room = self.room
        return room.fit(sizes_of(batch)) if self._weighed else min(len(batch), room.items)

    def fits(self, batch: Sequence[CompletionPayload]) -> bool:
        """Whether all of these fit."""
        return self.fit(batch) == len(batch)

    def leaves_half(self, batch: Sequence[CompletionPayload]) -> bool:
        """Whether what waits here, and these, come to half of it at the most."""
        return self.size + len(batch) <= self._limit // 2 and self.bytes + weight(batch) <= MOST_BYTES // 2

    def keep(self, items: int, size: int) -> None:
        """The stream holds so much more elsewhere, or less."""
        self.beside += items
        self.beside_bytes += size

    @contextlib.contextmanager
    def reserved(self, room: Room) -> Generator[None]:
        """Meanwhile so much is kept for what is on its way."""
        self.keep(room.items, room.bytes)
        self.reserved_alone = self._weighed and room.alone
        try:
            yield
        finally:
            self.reserved_alone = False
            self.keep(-room.items, -room.bytes)

    def hand(self, batch: Sequence[CompletionPayload]) -> Hand:
        """Hand a batch to the consumer, who has yielded all of the one before."""
        self._hand_bytes = weight(batch) if self._weighed else 0
        self._hand = Hand(batch)
        return self._hand

    def _advance(self, cursor: StreamCursor | None) -> None:
        # Nothing for this consumer, but the position moves: behind what still waits, if anything does.
        if self._queue:
            self._queue[-1] = (self._queue[-1][0], cursor, self._queue[-1][2])
        else:
            self.cursor = cursor

    @property
    def age_s(self) -> float | None:
        """How long ago the oldest that waits was produced, or came in where the wire has no time; None if none waits."""
        if not self._queue:
            return None
        batch, _, since = self._queue[0]
        age_s = seconds_since(batch[0].produced_at_ms)
        return time.monotonic() - since if age_s is None else age_s

    def take(self) -> Sequence[CompletionPayload]:
        """The oldest batch, or an empty one; of a large one the beginning: there is room again before all is yielded."""
        if not self._queue:
            return ()
        batch, cursor, since = self._queue.popleft()
        most = max(1, self._limit // 2)
        if len(batch) > most:
            self._queue.appendleft((batch[most:], cursor, since))
            batch = batch[:most]
            cursor = batch[-1].cursor
        self.cursor = cursor
        self.size -= len(batch)
        self.taken += len(batch)
        if self._weighed:
            self.bytes -= weight(batch)
        return batch

    def drop(self) -> int:
        """Forget everything that waits; how many completions that were."""
        dropped = self.size
        self._queue.clear()
        self.size = 0
        self.bytes = 0
        return dropped

    def rewind(self, cursor: StreamCursor) -> None:
        """No position beyond this one holds any more, neither this buffer's nor that of a completion that waits."""

        def bounded(old: StreamCursor | None) -> StreamCursor | None:
            return cursor if old is not None and old.position > cursor.position else old

        self.cursor = bounded(self.cursor)
        self._queue = deque(
            ([msgspec.structs.replace(item, cursor=bounded(item.cursor)) for item in batch], bounded(after), since)
            for batch, after, since in self._queue
        )

    def wake(self) -> None:
        """Wake the consumer, to look at something other than the queue."""
        self.signal.wake()

    async def ready(self) -> None:
        """Wait for the next batch or ``wake``."""
        if not self._queue:
            await self.signal.wait()
