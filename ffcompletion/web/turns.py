"""Who takes turns with whom: those of one key with each other, and never with those of another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import final

__all__ = ["Pace", "Share", "Turns"]


@final
class _Queue:
    def __init__(self, at_once: int) -> None:
        self.free = asyncio.Semaphore(at_once)
        self.users = 0


@final
class Turns:
    """So many at once of each key. Nothing is kept of a key that nobody uses."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._queues: dict[Hashable, _Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncGenerator[None]:
        """For a block, in the order of asking."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(self._at_once)
        queue.users += 1
        try:
            async with queue.free:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[key]


@final
class Pace:
    """So many of each key in one turn of the loop. Nothing is kept of a key that nobody uses."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._made: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._made)

    async def step(self, key: Hashable) -> None:
        """Returns at once or, where many of this key were before, in a later turn; in the order of asking."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # What was planned on another is never done.
            self._loop = loop
            self._made.clear()
            self._waiting.clear()
        if not self._made:
            loop.call_soon(self._turn, loop)
        made = self._made.setdefault(key, 0)
        if made < self._most:
            self._made[key] = made + 1
            return
        waiter = loop.create_future()
        self._waiting.setdefault(key, deque()).append(waiter)
        await waiter

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        self._made.clear()
        for key, waiting in tuple(self._waiting.items()):
            made = 0
            while waiting and made < self._most:
                waiter = waiting.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    made += 1
            self._made[key] = made
            if not waiting:
                del self._waiting[key]
        if self._made:
            loop.call_soon(self._turn, loop)


@final
class Share:
    """One key's part of both."""

    def __init__(self, key: Hashable, turns: Turns, pace: Pace) -> None:
        self._key = key
        self._turns = turns
        self._pace = pace

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Of ``Turns``."""
        return self._turns.turn(self._key)

    async def step(self) -> None:
        """Of ``Pace``."""
        await self._pace.step(self._key)
