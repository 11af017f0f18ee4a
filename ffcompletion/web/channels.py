"""Which channel a client joins: the one of its filter, shared, or one of its own that begins in the past."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import final

from ffcompletion.consumers.subscribing import open_stream
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import CursorExpired, EngineError, Validation
from ffcompletion.contract.protocols import CompletionBackend, ExecutionReader, ResumableCompletionBackend
from ffcompletion.web.channel import Channel
from ffcompletion.web.grants import Grant
from ffcompletion.web.outbox import Outbox

__all__ = ["Channels"]


@final
class Channels:
    """The open channels of one backend."""

    def __init__(self, backend: CompletionBackend, *, buffer_size: int, namespaces: bool) -> None:
        self._backend = backend
        self._buffer_size = buffer_size
        self._reader = backend if namespaces and isinstance(backend, ExecutionReader) else None
        self._shared: dict[Grant, Channel] = {}
        # Opening and closing of one grant's channel take turns.
        self._turns: dict[Grant, asyncio.Lock] = {}
        self._interested: Counter[Grant] = Counter()

    @property
    def resumable(self) -> bool:
        """Whether a client that comes back can be given what it missed."""
        return isinstance(self._backend, ResumableCompletionBackend)

    @asynccontextmanager
    async def joined(self, wanted: Grant, last_id: str | None) -> AsyncGenerator[Outbox]:
        """An outbox that is fed from now on, or from where the client stood.

        Raises ``Validation`` for an id that is none, ``CursorExpired`` for one from which nothing can be resumed (any
        more), and what the backend's subscribe calls raise.
        """
        if last_id is not None and not self.resumable:
            raise CursorExpired("this backend keeps no log, so what was missed cannot be had")
        self._interested[wanted] += 1
        turn = self._turns.setdefault(wanted, asyncio.Lock())
        channel, outbox = None, None
        try:
            async with turn:
                channel = self._shared.get(wanted)
                if channel is None or channel.ended:
                    if last_id is None:
                        await self._close(wanted)
                        channel = self._shared[wanted] = await self._open(wanted, None)
                    else:
                        channel = None
                outbox = channel and channel.join(last_id)
            if channel is None or outbox is None:
                channel = await self._open(wanted, _cursor(last_id or ""))
                outbox = channel.join()
            if outbox is None:
                raise CursorExpired("nothing is known of this position")
            yield outbox
        finally:
            if channel is not None and outbox is not None:
                channel.leave(outbox)
            if channel is not None and self._shared.get(wanted) is not channel:
                await channel.aclose()
            self._interested[wanted] -= 1
            if not self._interested[wanted]:
                async with turn:
                    if not self._interested[wanted]:
                        await self._close(wanted)
                        self._turns.pop(wanted, None)
                        del self._interested[wanted]

    async def _open(self, wanted: Grant, cursor: StreamCursor | None) -> Channel:
        try:
            stream = await open_stream(self._backend, wanted.as_filter(), cursor=cursor)
        except CursorExpired:
            raise
        except Validation as exc:
            if cursor is None:
                raise
            # Well formed, and of another server: as good as expired, for whoever holds it.
            raise CursorExpired(exc.detail) from exc
        names = wanted.namespaces
        only = next(iter(names)) if names is not None and len(names) == 1 else None
        return Channel(
            stream,
            buffer_size=self._buffer_size,
            resumable=self.resumable,
            paced=cursor is not None,
            namespace=only,
            reader=self._reader,
        )

    async def _close(self, wanted: Grant) -> None:
        channel = self._shared.pop(wanted, None)
        if channel is not None:
            await channel.aclose()


def _cursor(last_id: str) -> StreamCursor:
    try:
        return StreamCursor.from_text(last_id.partition(".")[0])
    except EngineError as exc:
        raise Validation("Last-Event-ID", "it was not sent by this service") from exc
