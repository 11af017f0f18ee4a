"""A world whose coroutines run on a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import ffcompletion as ffc
from tests.worlds import World


class Plain:
    """A world for code that blocks: a loop in a thread of its own drives the other side.

    It runs all the while, because glide reads every answer of a process on the loop that connected first.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(world.reset())

    def do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def backend(self) -> ffc.sync.Backend:
        async def made() -> ffc.Backend:
            return self.world.backend()

        return ffc.sync.Backend(asyncio.run_coroutine_threadsafe(made(), self._loop).result(5))

    def close(self) -> None:
        self.do(self.world.close())
        self.do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
