"""``stream_of``: an async generator as a stream that keeps the contract."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, Self, final

from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.foreign.awaiting import called

__all__ = ["GeneratorStream", "stream_of"]

# A generator that does not end when it is cancelled is left behind after so long.
_CLOSE_S: Final = 1.0


def stream_of(generator: AsyncIterator[CompletionPayload], /) -> GeneratorStream:
    """An async generator of payloads, as a stream: for authors of backends.

    ::

        async def subscribe_completions(self) -> ffc.CompletionStream:
            return ffc.stream_of(self._completions())

    By itself a generator cannot be closed while somebody waits for its next item, and is over when such a wait is
    cancelled. Here it runs in one task of its own, one item ahead of its consumer at most, from the first item that is
    asked for: a cancelled wait loses nothing, and closing cancels the generator at its ``await`` and ends every wait.

    Do the set-up before: what a generator does ahead of its first ``yield`` happens only when it is read. When it ends
    or raises, so does the stream, and the contract allows neither: mend faults inside.
    """
    return GeneratorStream(generator)


@final
class _Pump:
    """Drives the generator. Knows nothing of the handle, so that a handle that is dropped is noticed."""

    def __init__(self, generator: AsyncIterator[CompletionPayload]) -> None:
        self._generator = generator
        self._items: deque[CompletionPayload] = deque()
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop = running_loop("stream_of")
        self.closed: bool = False

    async def next(self) -> CompletionPayload:
        while not self.closed:
            if self._items:
                return self._items.popleft()
            if self._ended:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                break
            self._wanted.set()
            self._changed.clear()
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="ffcompletion-generator")
            await self._changed.wait()
        raise StopAsyncIteration

    async def _run(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                self._items.append(await called("the stream", self._generator.__anext__))
                self._changed.set()
        except StopAsyncIteration:
            pass
        except Exception as exc:  # noqa: BLE001  # the consumer raises it
            self._error = exc
        finally:
            self._ended = True
            self._changed.set()
            await self._finish()

    async def _finish(self) -> None:
        # A plain iterator has nothing to be closed.
        close: Callable[[], Awaitable[object]] | None = getattr(self._generator, "aclose", None)
        if close is not None:
            await called("the stream", close)

    def abort(self) -> None:
        self.closed = True
        self._items.clear()
        self._changed.set()
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        self.abort()
        if self._task is None:
            # Never begun: there is no task to end, only the generator.
            self._task = asyncio.create_task(self._finish(), name="ffcompletion-generator")
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task], timeout=_CLOSE_S)


@final
class GeneratorStream(AsyncClosing):
    """What ``stream_of`` returns: ``async for``, ``async with``, ``aclose()``."""

    __slots__ = ("__weakref__", "_pump")

    def __init__(self, generator: AsyncIterator[CompletionPayload]) -> None:
        self._pump = _Pump(generator)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        return await self._pump.next()

    @override
    async def aclose(self) -> None:
        """End the generator where it waits, and everybody's wait for it. Bounded in time; idempotent."""
        await self._pump.aclose()

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)
        if pump is None or pump.closed:
            return
        # The collector may run on any thread, and after the loop is gone.
        with contextlib.suppress(RuntimeError):
            pump.loop.call_soon_threadsafe(pump.abort)
        warnings.warn("unclosed stream of a generator; use `async with` or aclose()", ResourceWarning, stacklevel=2)


if TYPE_CHECKING:
    _: type[CompletionStream] = GeneratorStream
