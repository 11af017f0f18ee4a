"""``broadcast``: one stream of any backend for many consumers, each at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import deque
from typing import TYPE_CHECKING, Final, Self, final

from typing_extensions import override

from ffcompletion.consumers.options import Overflow
from ffcompletion.consumers.shards import position_of
from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import ResourceExhausted, Unavailable, Validation
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_count
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionBackend, CompletionStream, Subscription
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.foreign.awaiting import called

__all__ = ["Broadcast", "BroadcastStream", "broadcast"]

_POLICIES: Final = ("wait", "drop", "fail")


def broadcast(stream: CompletionStream, *, overflow: Overflow, buffer_size: int = 1_000) -> Broadcast:
    """Share one stream among many consumers, for the length of an ``async with`` block.

    What the block is given is itself a ``CompletionBackend``: each ``subscribe_completions()`` is a stream of its own, with a
    buffer of ``buffer_size`` completions. ``overflow`` says what a full one means:

    - ``"wait"``: the source is read no further until there is room, so the slowest consumer sets the pace of all;
    - ``"drop"``: that consumer loses its oldest completion, counted in its ``stats().lost``;
    - ``"fail"``: that consumer's stream ends with ``ResourceExhausted``.

    The source is read only while there is a consumer, so none of it is lost to nobody. When it ends, so do they, after
    what they still have; what it raises, they raise. Leaving the block closes it and all of them.
    """
    return Broadcast(stream, overflow=overflow, buffer_size=buffer_size)


@final
class _Queue:
    """What waits for one consumer."""

    def __init__(self, cursor: StreamCursor | None) -> None:
        self.items: deque[CompletionPayload] = deque()
        self.cursor: StreamCursor | None = cursor
        """Of the last that was handed to the consumer; of the last before its first."""
        self.arrived: asyncio.Event = asyncio.Event()
        self.room: asyncio.Event = asyncio.Event()
        self.ended: bool = False
        self.error: BaseException | None = None
        self.delivered: int = 0
        self.lost: int = 0
        self.overflows: int = 0

    def end(self, error: BaseException | None = None) -> None:
        self.error = self.error or error
        self.ended = True
        self.arrived.set()
        self.room.set()


@final
class BroadcastStream(AsyncClosing):
    """One consumer's stream: ``async for``, ``aclose()``, ``stats()``."""

    __slots__ = ("__weakref__", "_loop", "_queue", "_shared")

    def __init__(self, shared: Broadcast, queue: _Queue) -> None:
        self._shared = shared
        self._queue = queue
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        queue = self._queue
        while not queue.items:
            if queue.ended:
                if queue.error is not None:
                    raise queue.error.with_traceback(None)
                raise StopAsyncIteration
            queue.arrived.clear()
            await queue.arrived.wait()
        queue.delivered += 1
        queue.room.set()
        item = queue.items.popleft()
        queue.cursor = item.cursor
        return item

    @property
    def cursor(self) -> StreamCursor | None:
        """Where this consumer would have to resume, on a stream like the shared one; None where that has no cursors."""
        return self._queue.cursor

    @override
    async def aclose(self) -> None:
        """Leave; nobody waits for this consumer any more. Idempotent."""
        self._queue.items.clear()
        self._shared._leave(self._queue)  # pyright: ignore[reportPrivateUsage]  # the two classes are one unit

    def stats(self) -> StreamStats:
        """Counters of this consumer, now."""
        queue = self._queue
        waiting = len(queue.items)
        return StreamStats(
            delivered=queue.delivered,
            buffered=waiting,
            lost=queue.lost,
            overflows=queue.overflows,
            lag=Lag(completions=waiting, seconds=seconds_since(queue.items[0].produced_at_ms)) if waiting else Lag(),
        )

    def __del__(self) -> None:
        queue = getattr(self, "_queue", None)
        if queue is None or queue.ended:
            return
        # The collector may run on any thread, and after the loop is gone; then nobody waits for this consumer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._shared._leave, queue)  # pyright: ignore[reportPrivateUsage]  # the same
        warnings.warn("unclosed broadcast stream; use `async with` or aclose()", ResourceWarning, stacklevel=2)


@final
class Broadcast(CompletionBackend, AsyncClosing):
    """What ``broadcast`` returns; use it in ``async with``. Filters are the source stream's own: give it one.

    Raises ``Validation`` for options that cannot be.
    """

    def __init__(self, stream: CompletionStream, *, overflow: Overflow, buffer_size: int) -> None:
        if overflow not in _POLICIES:
            raise Validation("overflow", f"{overflow!r} is none of {', '.join(_POLICIES)}")
        self._stream = stream
        self._overflow = overflow
        self._limit = check_count("buffer_size", buffer_size)
        self._queues: dict[_Queue, None] = {}
        self._wanted = asyncio.Event()
        self._ended = False
        # Of the last completion that was handed to everybody: whoever subscribes now is given all that follow.
        self._cursor: StreamCursor | None = None
        self._task: asyncio.Task[None] | None = None

    @override
    async def subscribe_completions(self, /) -> BroadcastStream:
        """A stream of everything the source yields from now on. Raises ``Unavailable`` once the source has ended."""
        running_loop("subscribe")
        if self._ended or self._task is None:
            raise Unavailable("subscribe", "the broadcast has ended, or its `async with` block has not begun")
        queue = _Queue(self._cursor)
        self._queues[queue] = None
        self._wanted.set()
        return BroadcastStream(self, queue)

    def _leave(self, queue: _Queue) -> None:
        self._queues.pop(queue, None)
        queue.end()
        if not self._queues:
            self._wanted.clear()

    @override
    async def __aenter__(self) -> Self:
        running_loop("broadcast")
        self._cursor = position_of(self._stream)
        self._task = asyncio.create_task(self._pump(), name="ffcompletion-broadcast")
        return self

    @override
    async def aclose(self) -> None:
        """Close the source and end every consumer's stream, after what it still has. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._end(None)
        await self._stream.aclose()

    async def _pump(self) -> None:
        error: BaseException | None = None
        try:
            await self._wanted.wait()
            await called("the shared stream", self._read)
        except Exception as exc:  # noqa: BLE001  # the consumers raise it
            error = exc
        finally:
            self._end(error)

    async def _read(self) -> None:
        async for completion in self._stream:
            taken = False
            while not taken:
                # Held back while nobody listens.
                await self._wanted.wait()
                for queue in tuple(self._queues):
                    taken = await self._hand(queue, completion) or taken
            self._cursor = completion.cursor
            if any(2 * len(queue.items) >= self._limit for queue in self._queues):
                # A source that never waits would fill the buffers before anybody has had a turn.
                await asyncio.sleep(0)

    async def _hand(self, queue: _Queue, completion: CompletionPayload) -> bool:
        if len(queue.items) >= self._limit:
            queue.overflows += 1
            if self._overflow == "drop":
                queue.items.popleft()
                queue.lost += 1
            elif self._overflow == "fail":
                queue.error = ResourceExhausted("broadcast buffer", f"{self._limit} completions wait for this consumer")
                self._leave(queue)
            while len(queue.items) >= self._limit and not queue.ended:
                queue.room.clear()
                await queue.room.wait()
        if queue.ended:
            # It has failed or left; a failure is its own answer.
            return queue.error is not None
        queue.items.append(completion)
        queue.arrived.set()
        return True

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        for queue in tuple(self._queues):
            queue.end(error)
        self._queues.clear()


if TYPE_CHECKING:
    _: type[Subscription] = BroadcastStream
