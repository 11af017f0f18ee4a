"""A stream of completions for a plain ``for`` loop."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Self, final

import msgspec
from typing_extensions import Unpack, override

from ffcompletion.consumers.options import SubscribeOptions
from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.closing import Closing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import Backend, CompletionFilter, Subscription
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.sync.loop import LoopThread

__all__ = ["Pump", "Stream"]

# Completions that are moved to the thread ahead of it; what is not fetched waits in the backend's own buffers.
_AHEAD: Final = 1000


@final
class Pump:
    """Moves completions from a stream on the loop's thread to whoever iterates.

    Knows nothing of the handle that is iterated over, so that a handle that is dropped unclosed is noticed.
    """

    def __init__(self, loop: LoopThread, forget: Callable[[Pump], None]) -> None:
        self._loop = loop
        self._forget = forget
        self._items: deque[CompletionPayload] = deque()
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._stream: Subscription | None = None
        # Of the last that was handed to the thread; where the stream began, before the first.
        self._yielded: StreamCursor | None = None
        self._final: tuple[StreamCursor | None, StreamStats] | None = None
        self.ended: bool = False
        """Whether nothing more comes from the loop's thread."""

    async def start(
        self, backend: Backend, wanted: CompletionFilter | None, **options: Unpack[SubscribeOptions]
    ) -> None:
        """Subscribe; on the loop's thread."""
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(subscribe(backend, wanted, **options))
            self._stream = stream
            self._yielded = stream.cursor
            self._task = asyncio.create_task(self._run(stream, stack.pop_all()), name="ffcompletion-sync-stream")

    async def _run(self, stream: Subscription, stack: AsyncExitStack) -> None:
        try:
            async with stack:
                async for completion in stream:
                    self._items.append(completion)
                    if len(self._items) == 1:
                        self._tell()
                    while len(self._items) >= _AHEAD:
                        self._room.clear()
                        await self._room.wait()
        except Exception as exc:  # noqa: BLE001  # the loop's thread raises it
            self._error = exc
        finally:
            self.ended = True
            self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def next(self) -> CompletionPayload:
        """The next completion, however long it takes. Raises ``StopIteration`` at the end."""
        while True:
            try:
                completion = self._items.popleft()
            except IndexError:
                pass
            else:
                self._yielded = completion.cursor
                if len(self._items) == _AHEAD // 2 or not self._items:
                    self._loop.call(self._room.set)
                return completion
            if os.getpid() != self._loop.pid:
                raise Unavailable("this stream", "it was opened before fork(); subscribe again in the child process")
            with self._changed:
                if not self._items:
                    if self.ended:
                        if self._error is not None:
                            raise self._error
                        raise StopIteration
                    self._changed.wait()

    def look(self) -> tuple[StreamCursor | None, StreamStats]:
        """Where to resume, and the counters; what was moved ahead and not fetched counts as buffered."""
        if self._final is not None:
            return self._final
        if self.ended:
            return self._seen()
        return self._loop.run(self._look)

    async def _look(self) -> tuple[StreamCursor | None, StreamStats]:
        # On the loop's thread nothing is on its way between the stream and the items.
        return self._seen()

    def _seen(self) -> tuple[StreamCursor | None, StreamStats]:
        stream, ahead = self._stream, len(self._items)
        if stream is None:
            return None, StreamStats()
        stats = stream.stats()
        if ahead:
            age_s = seconds_since(self._items[0].produced_at_ms)
            lag = Lag(completions=stats.lag.completions + ahead, seconds=age_s or stats.lag.seconds or None)
            stats = msgspec.structs.replace(
                stats, delivered=stats.delivered - ahead, buffered=stats.buffered + ahead, lag=lag
            )
        return self._yielded if ahead else stream.cursor, stats

    def close(self) -> None:
        """Release what it holds on the server, and wait for that. Idempotent."""
        self._forget(self)
        task = self._task
        if task is not None and self._final is None and os.getpid() == self._loop.pid:
            self._final = self.look()
            if not self.ended:
                self._loop.run(lambda: _cancelled(task))
        self._items.clear()

    def abandon(self) -> None:
        """The same without waiting, from any thread: nobody holds the stream any more."""
        self._forget(self)
        if self._task is not None:
            self._loop.call(self._task.cancel)


@final
class Stream(Closing):
    """Completions for a plain ``for`` loop. Close it, or use it in ``with``; closing ends the loop in any thread.

    One that is dropped unclosed, as after a ``break``, is released too, with a ``ResourceWarning``.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> CompletionPayload:
        return self._pump.next()

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume after what has been yielded so far; None on backends that cannot resume."""
        return self._pump.look()[0]

    def stats(self) -> StreamStats:
        """Counters of this stream, now."""
        return self._pump.look()[1]

    @override
    def close(self) -> None:
        """Release what it holds on the server; a loop over it ends. Idempotent."""
        self._pump.close()

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)
        if pump is not None and not pump.ended:
            pump.abandon()
            warnings.warn("unclosed sync stream; use `with` or close()", ResourceWarning, stacklevel=2, source=self)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
