"""A bounded queue of batches between a hub and one consumer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import seconds_since

__all__ = ["MOST_BYTES", "Buffer", "Signal", "weight"]

MOST_BYTES: Final = 32 << 20
"""Of results that wait for one consumer; one batch more may."""


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
                _resolve(waiter)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, waiter)

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


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def weight(batch: Sequence[CompletionPayload]) -> int:
    """Bytes of the results in it."""
    return sum(len(item.payload_bytes) for item in batch if item.payload_bytes is not None)


@final
class Buffer:
    """Batches waiting for one consumer: at most ``limit`` completions, or one batch.

    ``weighed``: their results count too. A batch comes in while fewer than ``MOST_BYTES`` wait; and a batch has few of
    them, because whoever asks a server for results asks for few at a time.

    Batches are shared between the buffers of many streams and never copied, so a buffer costs its own references.
    """

    __slots__ = ("_limit", "_queue", "_weighed", "bytes", "cursor", "signal", "size", "taken")

    def __init__(self, limit: int, *, weighed: bool = False) -> None:
        self._limit = limit
        self._weighed = weighed
        self.bytes: int = 0
        """Bytes of results waiting, where they are weighed."""
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
        if self.size and (self.size + count > self._limit or self.bytes >= MOST_BYTES):
            return False
        self.size += count
        if self._weighed:
            self.bytes += weight(batch)
        self._queue.append((batch, cursor, time.monotonic()))
        self.signal.wake()
        return True

    @property
    def room(self) -> int:
        """How many more fit."""
        return max(0, self._limit - self.size) if self.bytes < MOST_BYTES else 0

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
        """The oldest batch, or an empty one."""
        if not self._queue:
            return ()
        batch, self.cursor, _ = self._queue.popleft()
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
