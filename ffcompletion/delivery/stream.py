"""The stream that every adapter returns: a handle over a source of batches.

The handle belongs to the consumer, the source to the backend; the backend never holds the handle, so that a handle
that is dropped without being closed is noticed and its source released.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from operator import length_hint
from typing import TYPE_CHECKING, Final, Protocol, Self, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import Batched, CompletionStream
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.delivery.buffer import Hand

__all__ = ["Source", "Subscription"]

# A consumer whose items are all in memory never suspends by itself, and would starve the very reader that feeds it.
# 256 items are some 50 µs of iteration, short against any I/O.
_ITEMS_BETWEEN_YIELDS: Final = 256
# Far longer than a source takes.
_RELEASED_WITHIN_S: Final = 60.0


class Source(Protocol):
    """Where a stream's completions come from. All on the loop's thread; only ``ready`` and ``aclose`` wait."""

    def take(self) -> Hand:
        """The next batch, moved out of the buffer; empty if there is none now. What was taken before is all yielded."""
        ...

    async def ready(self) -> None:
        """Wait until ``take`` may have something, or the source is closed. Cancelling it loses nothing."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the stream is over: closed by its consumer, or with its backend."""
        ...

    def abort(self) -> None:
        """End it now: let go of the live signal, wake ``ready``. Idempotent."""
        ...

    async def aclose(self) -> None:
        """End it, and wait for a bounded time until what was held on the server is released."""
        ...

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume once every batch taken so far has been consumed.

        Everything else that the stream has to hand over lies behind it, wherever it waits: unread, read, or buffered.
        """
        ...

    def stats(self) -> StreamStats:
        """Counters, with everything taken counted as delivered."""
        ...


@final
class Subscription(AsyncClosing):
    """A stream of completions: ``async for``, ``async with``, ``aclose()``, ``stats()``, ``cursor``.

    Yields ``CompletionPayload`` until closed. Closing is idempotent and allowed while another task waits for the next
    item; that task gets ``StopAsyncIteration``. A cancelled wait loses nothing. Use from the loop it was made on.
    """

    __slots__ = (
        "__weakref__",
        "_before",
        "_hand",
        "_items",
        "_loop",
        "_name",
        "_pid",
        "_source",
        "_taken_at",
        "_unyielded",
    )

    def __init__(self, source: Source, name: str) -> None:
        # Before there is a source that would have to be released: this may raise.
        self._loop = running_loop("subscribe")
        self._source = source
        self._name = name
        # What is left in it once this handle is closed was taken, and never yielded.
        self._hand = Hand()
        self._items: Iterator[CompletionPayload] = self._hand.items
        # Where to resume before the first of the batch has been yielded.
        self._before: StreamCursor | None = None
        self._unyielded = 0
        self._taken_at = 0.0
        self._pid = os.getpid()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        item = next(self._items, None)
        return item if item is not None else await self._next()

    async def _next(self) -> CompletionPayload:
        if os.getpid() != self._pid:
            raise Unavailable("this stream", "it was opened before fork(); subscribe again in the child process")
        while True:
            # Another task may have refilled the items while this one was suspended.
            item = next(self._items, None)
            if item is not None:
                return item
            if not self._take():
                await self._source.ready()
            elif self._unyielded >= _ITEMS_BETWEEN_YIELDS:
                # Behind take(), so that whatever it set in motion (the next page's query) is under way meanwhile.
                self._unyielded = 0
                await asyncio.sleep(0)

    def _take(self) -> bool:
        """Whether there is something in hand again. Raises ``StopAsyncIteration`` at the end."""
        if self._source.closed:
            raise StopAsyncIteration
        self._unyielded += len(self._hand.batch)
        self._before = self._source.cursor
        hand = self._hand = self._source.take()
        self._items = hand.items
        if not hand.batch:
            self._unyielded = 0
            return False
        self._taken_at = time.monotonic()
        return True

    async def next_batch(self, /) -> Iterator[CompletionPayload]:
        """``Batched.next_batch``: what is in hand, once there is something."""
        while not length_hint(self._items):
            if not self._take():
                await self._source.ready()
        return self._items

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume after what has been yielded so far; None on backends that cannot resume.

        At any moment, also once the stream is closed: resuming here yields everything that this stream has not
        yielded and its filter admits, and may repeat what it has. Runs ahead of the last payload's own cursor where
        completions were filtered out since.
        """
        reached = self._source.cursor
        hand = self._hand
        left = hand.left
        if not left or reached is None:
            return reached
        done = len(hand.batch) - left
        last = hand.batch[done - 1].cursor if done else self._before
        # The source's is the further one, unless the history behind it was replaced since the batch was taken.
        return last if last is None or last.position <= reached.position else reached

    def stats(self) -> StreamStats:
        """Counters of this stream, now."""
        stats = self._source.stats()
        left = self._hand.left
        behind = stats.lag.completions + left
        if not behind:
            return stats
        return msgspec.structs.replace(
            stats,
            delivered=stats.delivered - left,
            buffered=stats.buffered + left,
            lag=Lag(completions=behind, seconds=self._behind_s(stats.lag.seconds, left)),
        )

    def _behind_s(self, source_s: float | None, left: int) -> float | None:
        """How far behind in time; ``source_s``: how old what the source holds is, where it can tell."""
        batch = self._hand.batch
        if not batch or (not left and source_s is not None):
            return source_s
        # What is in hand is older than what the source holds. With nothing in hand, the rest came after the last of it.
        age_s = seconds_since(batch[-left].produced_at_ms if left else batch[-1].produced_at_ms)
        if age_s is None and left:
            return max(time.monotonic() - self._taken_at, source_s or 0.0)
        return age_s

    @override
    async def aclose(self) -> None:
        """Close the stream and release what it held on the server, within about a second whatever the server does."""
        self._items = iter(())
        self._source.abort()
        if os.getpid() == self._pid:
            await self._source.aclose()

    @override
    def __repr__(self) -> str:
        state = "closed" if self._source.closed else "catching up" if self._source.stats().catching_up else "live"
        return f"<{self._name} stream, {state}>"

    def __del__(self) -> None:
        source = getattr(self, "_source", None)
        if source is None or source.closed or os.getpid() != self._pid:
            return
        # The collector may run on any thread, and after the loop is gone; then nothing is left to release.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_abort, source)
        warnings.warn(
            f"unclosed {self._name} stream; use `async with` or aclose()", ResourceWarning, stacklevel=2, source=self
        )


def _abort(source: Source) -> None:
    source.abort()
    task = asyncio.ensure_future(source.aclose())
    # The loop keeps only a weak reference to a task. Held by a timer it goes with the loop, should that be closed before
    # it is done; held by the process it would stay, and with it everything that the stream had open.
    held = asyncio.get_running_loop().call_later(_RELEASED_WITHIN_S, _nothing, task)
    task.add_done_callback(lambda _: held.cancel())


def _nothing(_: asyncio.Task[None]) -> None: ...


if TYPE_CHECKING:
    _: type[CompletionStream] = Subscription
    _batched: type[Batched] = Subscription
