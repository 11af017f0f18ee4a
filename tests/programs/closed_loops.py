"""Loops in threads, each closed by hand with everything open once the next one is there, which glide's pipe passes to.

Prints for each: whether it went on being told, what was malformed, how often it connected anew. Its argument: the server's URL.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import warnings

from ffcompletion.backends.valkey import ValkeyBackend

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"
LOOPS = 6
# Nobody lets go of anything.
kept: list[object] = []


class Link:
    """One loop of the chain."""

    def __init__(self) -> None:
        self.is_live, self.is_alone, self.is_over = (threading.Event() for _ in range(3))
        self.has_told = threading.Event()
        self.told = ""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._read())
        finally:
            loop.close()
            self.has_told.set()

    async def _read(self) -> None:
        backend = ValkeyBackend(sys.argv[1], reconcile_interval=0, setup_timeout=20)
        stream = await backend.subscribe_completions()
        count = 0

        async def read() -> None:
            nonlocal count
            async for _ in stream:
                count += 1

        kept.extend((backend, stream, asyncio.ensure_future(read())))
        while count < 20:
            await asyncio.sleep(0.01)
        self.is_live.set()
        while not self.is_alone.is_set():
            await asyncio.sleep(0.01)
        enough, end = count + 500, time.monotonic() + 20
        while count < enough and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await backend.describe_execution(ID)
        stats = backend.stats()
        self.told = f"{count >= enough} {stats.malformed} {stats.reconnects}"
        self.has_told.set()
        while not self.is_over.is_set():
            await asyncio.sleep(0.001)
        kept.extend(asyncio.ensure_future(backend.describe_executions([ID] * 100)) for _ in range(9))
        await asyncio.sleep(0)


def main() -> None:
    warnings.simplefilter("ignore")
    before: Link | None = None
    for _ in range(LOOPS):
        link = Link()
        link.is_live.wait(30)
        if before is not None:
            before.is_over.set()
            before.thread.join()
        link.is_alone.set()
        link.has_told.wait(40)
        print(link.told, flush=True)
        before = link
    os._exit(0)


if __name__ == "__main__":
    main()
