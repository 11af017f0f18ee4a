"""A stream of completions for a plain ``for`` loop."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack
from functools import partial
from operator import length_hint
from typing import Protocol, Self, final

import msgspec
from typing_extensions import Unpack, override

from ffcompletion.consumers.options import SubscribeOptions
from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.closing import Closing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import Backend, Batched, CompletionFilter, Subscription
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.sync.loop import LoopThread, held

__all__ = ["Pump", "Stream", "abort_dropped"]


class _Source(Protocol):
    async def next_batch(self, /) -> Iterator[CompletionPayload]: ...

    @property
    def cursor(self) -> StreamCursor | None: ...

    def stats(self) -> StreamStats: ...


@final
class _OneByOne:
    """Somebody else's subscription: what it has yielded, and nobody has taken yet, is kept account of here."""

    def __init__(self, stream: Subscription) -> None:
        self._stream = stream
        self._before: StreamCursor | None = None
        self._since_ms = 0
        self._items: Iterator[CompletionPayload] = iter(())

    async def next_batch(self, /) -> Iterator[CompletionPayload]:
        before = self._stream.cursor
        completion = await anext(self._stream)
        self._before, self._since_ms, self._items = before, completion.produced_at_ms, iter((completion,))
        return self._items

    @property
    def cursor(self) -> StreamCursor | None:
        return self._before if length_hint(self._items) else self._stream.cursor

    def stats(self) -> StreamStats:
        stats = self._stream.stats()
        if not length_hint(self._items):
            return stats
        lag = Lag(completions=stats.lag.completions + 1, seconds=seconds_since(self._since_ms) or stats.lag.seconds)
        return msgspec.structs.replace(stats, delivered=stats.delivered - 1, buffered=stats.buffered + 1, lag=lag)


@final
class Pump:
    """Moves completions from a stream on the loop's thread to whoever iterates.

    Knows nothing of the handle that is iterated over, so that a handle that is dropped unclosed is noticed.
    """

    def __init__(self, loop: LoopThread, forget: Callable[[Pump], None]) -> None:
        self._loop = loop
        self._forget = forget
        # Whoever iterates takes from here; how many there were before it tells whether it has been replaced.
        self._items: Iterator[CompletionPayload] = iter(())
        self._batches = 0
        # Each waits for its own: the loop's thread only ever lets go.
        self._waiting: deque[threading.Lock] = deque()
        self._wanted = asyncio.Event()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._stream: _Source | None = None
        self._final: tuple[StreamCursor | None, StreamStats] | None = None
        self._aborted = False
        self.ended: bool = False
        """Whether nothing more comes from the loop's thread."""
        self.handle: Callable[[], object] = lambda: None
        """The stream that is iterated over, or None."""

    def open(self, backend: Backend, wanted: CompletionFilter | None, **options: Unpack[SubscribeOptions]) -> None:
        """Subscribe, and wait for that."""
        try:
            self._loop.run(lambda: self._start(backend, wanted, **options))
        except BaseException:
            # An interrupt may come in the very moment that it is made.
            self.abort()
            self.ended = True
            raise

    async def _start(
        self, backend: Backend, wanted: CompletionFilter | None, **options: Unpack[SubscribeOptions]
    ) -> None:
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(subscribe(backend, wanted, **options))
            if self._aborted:
                return
            self._stream = stream if isinstance(stream, Batched) else _OneByOne(stream)
            self._task = asyncio.create_task(self._run(self._stream, stack.pop_all()), name="ffcompletion-sync-stream")

    async def _run(self, stream: _Source, stack: AsyncExitStack) -> None:
        try:
            async with stack:
                while True:
                    # Only what is asked for is moved: until then it is the stream's, within its own bounds.
                    await self._wanted.wait()
                    items = await stream.next_batch()
                    self._wanted.clear()
                    self._items = items
                    self._batches += 1
                    self._wake()
        except StopAsyncIteration:
            pass
        except Exception as exc:  # noqa: BLE001  # the loop's thread raises it
            self._error = exc
        finally:
            self.ended = True
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            self._waiting.popleft().release()

    def _want(self, seen: int) -> None:
        # Whoever asked may have looked before others took what there is now.
        if seen == self._batches:
            self._wanted.set()

    def next(self) -> CompletionPayload:
        """The next completion, however long it takes. Raises ``StopIteration`` at the end."""
        while True:
            seen = self._batches
            completion = next(self._items, None)
            if completion is not None:
                return completion
            if os.getpid() != self._loop.pid:
                raise Unavailable("this stream", "it was opened before fork(); subscribe again in the child process")
            waiting = held()
            self._waiting.append(waiting)
            # Only now is it certain that a change is noticed.
            if self._batches != seen:
                continue
            if self.ended:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            self._loop.call(partial(self._want, seen))
            waiting.acquire()

    def look(self) -> tuple[StreamCursor | None, StreamStats]:
        """Where to resume, and the counters."""
        if self._final is not None:
            return self._final
        if self.ended:
            return self._seen()
        return self._loop.run(self._look)

    async def _look(self) -> tuple[StreamCursor | None, StreamStats]:
        return self._seen()

    def _seen(self) -> tuple[StreamCursor | None, StreamStats]:
        return (None, StreamStats()) if self._stream is None else (self._stream.cursor, self._stream.stats())

    def close(self) -> None:
        """Release what it holds on the server, and wait for that. Idempotent."""
        self._forget(self)
        task = self._task
        if task is not None and self._final is None and os.getpid() == self._loop.pid:
            self._final = self.look()
            if not self.ended:
                self._loop.run(lambda: _cancelled(task))
        self._items = iter(())

    def abort(self) -> None:
        """The same without waiting, from any thread: nobody holds the stream any more."""
        self._loop.call(self._abort)
        # Known until that is certain.
        self._forget(self)

    def _abort(self) -> None:
        self._aborted = True
        if self._task is not None:
            self._task.cancel()


@final
class Stream(Closing):
    """Completions for a plain ``for`` loop. Close it, or use it in ``with``; closing ends the loop in any thread.

    One that is dropped unclosed, as after a ``break``, is released too, with a ``ResourceWarning``.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        pump.handle = weakref.ref(self)

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
            pump.abort()
            warnings.warn("unclosed sync stream; use `with` or close()", ResourceWarning, stacklevel=2, source=self)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def abort_dropped(pumps: Collection[Pump]) -> None:
    """Those whose streams are gone and that are there all the same: an interrupt came as they were dropped."""
    for pump in tuple(pumps):
        if pump.handle() is None:
            pump.abort()
