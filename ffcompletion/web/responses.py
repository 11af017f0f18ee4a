"""Answers that last: they end with the client, with its grant, or with the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar, final

from starlette.types import Receive, Send

from ffcompletion.web.frames import KEEPALIVE, RETRY, event
from ffcompletion.web.outbox import Outbox
from ffcompletion.web.turns import Share

__all__ = ["EventStream", "gone", "unless", "until"]

_STATUS_S: Final = 2.0
# A client that takes nothing more is not waited for with the last word.
_LAST_WORD_S: Final = 0.3
# Between looks at what a client sends that has nothing to say.
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 1.0
_T = TypeVar("_T")


@asynccontextmanager
async def gone(receive: Receive) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that is done once the client has left; ended with the block."""
    leaving = asyncio.create_task(_gone(receive), name="ffcompletion-web-beside")
    try:
        yield leaving
    finally:
        leaving.cancel()
        await asyncio.wait([leaving])


@asynccontextmanager
async def unless(*ends: asyncio.Future[None]) -> AsyncGenerator[None]:
    """A block that ends with ``TimeoutError`` as soon as one of these is done."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:

        def end(_: asyncio.Future[None]) -> None:
            # It may be over by the time that this is called.
            with contextlib.suppress(RuntimeError):
                limit.reschedule(loop.time())

        for one in ends:
            one.add_done_callback(end)
        try:
            yield
        finally:
            for one in ends:
                one.remove_done_callback(end)


async def until(
    work: Coroutine[object, object, _T],
    receive: Receive,
    guard: Coroutine[object, object, None],
    stopping: asyncio.Future[None],
) -> _T | Exception | None:
    """What the work returns or raises, or None if something else ended first: the client, its grant, the service."""
    task = asyncio.create_task(work, name="ffcompletion-web-answer")
    async with _beside(task, _gone(receive), guard) as others:
        ends: list[asyncio.Future[_T] | asyncio.Future[None]] = [task, *others, stopping]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return None
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, Exception):
            return error
        raise error


@final
class EventStream:
    """Sends what comes into an outbox until it, the client, the grant or the service ends."""

    def __init__(
        self,
        outbox: Outbox,
        keepalive_s: float,
        headers: Mapping[str, str],
        status: Callable[[], Mapping[str, object]] | None,
        share: Share,
    ) -> None:
        self._outbox = outbox
        self._pause_s = keepalive_s if status is None else min(keepalive_s, _STATUS_S)
        self._headers = headers
        self._status = status
        self._share = share

    async def __call__(
        self,
        leaving: asyncio.Future[None],
        send: Send,
        guard: Coroutine[object, object, None],
        stopping: asyncio.Future[None],
    ) -> None:
        """Answer one request. ``leaving``: done once its client has left."""
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            # Proxies that gather before they pass on would defeat the purpose.
            "x-accel-buffering": "no",
            **self._headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        sending = asyncio.create_task(self._send(send, raw), name="ffcompletion-web-answer")
        async with _beside(sending, guard) as (guarding,):
            await asyncio.wait([sending, leaving, guarding, stopping], return_when=asyncio.FIRST_COMPLETED)
            left = leaving.done()
            if sending.done():
                # Servers may raise for a client that is gone.
                left = left or isinstance(sending.exception(), OSError)
        if left:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = RETRY + self._tick(b"")
        loop = asyncio.get_running_loop()
        while True:
            await self._share.step()
            body += self._outbox.take()
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = b""
            if self._outbox.ended and not len(self._outbox):
                return
            before = loop.time()
            await self._outbox.ready(self._pause_s)
            if self._status is not None or loop.time() - before >= self._pause_s:
                body = self._tick(KEEPALIVE)
            if self._status is not None:
                # Whoever looks at numbers is served in steps, however fast the completions come.
                await asyncio.sleep(0.1)

    def _tick(self, otherwise: bytes) -> bytes:
        return otherwise if self._status is None else event("status", self._status())


async def _gone(receive: Receive) -> None:
    pause_s = _FIRST_PAUSE_S
    while (await receive())["type"] != "http.disconnect":
        # A body is nobody's business; and middleware that plays one back may do so again and again, without a pause.
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@asynccontextmanager
async def _beside(
    task: asyncio.Task[_T], *others: Coroutine[object, object, None]
) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """More tasks for the length of a block; all of them, and the first, have ended when it is left."""
    beside = [asyncio.create_task(other, name="ffcompletion-web-beside") for other in others]
    try:
        yield beside
    finally:
        for one in (task, *beside):
            one.cancel()
        await asyncio.wait([task, *beside])
