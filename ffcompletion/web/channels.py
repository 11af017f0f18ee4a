"""Which channel a client joins: the one of its filter, shared, or one of its own that begins in the past."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, final

from ffcompletion.consumers.subscribing import open_stream
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import CursorExpired, EngineError, Validation
from ffcompletion.contract.loops import shared_task
from ffcompletion.contract.protocols import CompletionBackend, ExecutionReader, ResumableCompletionBackend
from ffcompletion.web.channel import Channel
from ffcompletion.web.grants import Grant
from ffcompletion.web.outbox import Outbox
from ffcompletion.web.turns import Pace, Share, Turns

__all__ = ["Channels"]

# Of one grant's clients, those that read what is stored at a time: a question of the server's for each.
_RESUMING: Final = 4
# Of one grant's frames, those that are sent in one turn of the event loop: two milliseconds' worth.
_STEPS: Final = 32


@final
class _Shared:
    """One grant's channel, and who has come for it."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.clients = 0
        # Opening and closing take turns.
        self.turn = asyncio.Lock()

    def has_clients(self) -> bool:
        return self.clients > 0

    async def close(self) -> None:
        channel, self.channel = self.channel, None
        if channel is not None:
            await channel.aclose()


@final
class Channels:
    """The open channels of one backend."""

    def __init__(self, backend: CompletionBackend, *, buffer_size: int, namespaces: bool) -> None:
        self._backend = backend
        self._buffer_size = buffer_size
        self._reader = backend if namespaces and isinstance(backend, ExecutionReader) else None
        self._shared: dict[Grant, _Shared] = {}
        self._resuming = Turns(_RESUMING)
        self._pace = Pace(_STEPS)
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._shared)

    @property
    def resumable(self) -> bool:
        """Whether a client that comes back can be given what it missed."""
        return isinstance(self._backend, ResumableCompletionBackend)

    def share(self, grant: Grant) -> Share:
        """What its clients have together."""
        return Share(grant, self._resuming, self._pace)

    @asynccontextmanager
    async def joined(self, grant: Grant, wanted: Grant, last_id: str | None) -> AsyncGenerator[Outbox]:
        """An outbox that is fed from now on, or from where the client stood. ``wanted``: a part of the ``grant``.

        Raises ``Validation`` for an id that is none, ``CursorExpired`` for one from which nothing can be resumed (any
        more), and what the backend's subscribe calls raise.
        """
        if last_id is not None and not self.resumable:
            raise CursorExpired("this backend keeps no log, so what was missed cannot be had")
        shared = self._shared.setdefault(wanted, _Shared())
        shared.clients += 1
        channel, outbox = None, None
        try:
            async with shared.turn:
                channel = shared.channel
                if channel is not None and channel.ended:
                    channel = None
                if channel is None and last_id is None:
                    await shared.close()
                    channel = shared.channel = await self._open(wanted, None, None)
                outbox = channel and channel.join(last_id)
            if outbox is None:
                cursor, share = _cursor(last_id or ""), self.share(grant)
                async with share.turn():
                    channel = await self._open(wanted, cursor, share)
                outbox = channel.join()
            if outbox is None:
                raise CursorExpired("nothing is known of this position")
            yield outbox
        finally:
            if channel is not None and outbox is not None:
                channel.leave(outbox)
            shared.clients -= 1
            if not shared.clients or (channel is not None and channel is not shared.channel):
                # To its end, also where this is cancelled meanwhile, and again: anyio's scopes do that.
                leaving = shared_task(self._left(wanted, shared, channel), "ffcompletion-web-leaving")
                self._closing.add(leaving)
                leaving.add_done_callback(self._closing.discard)
                await asyncio.shield(leaving)

    async def _left(self, wanted: Grant, shared: _Shared, channel: Channel | None) -> None:
        if channel is not None and channel is not shared.channel:
            await channel.aclose()
        if shared.has_clients():
            return
        async with shared.turn:
            if shared.has_clients():
                return
            await shared.close()
            # Whoever has come meanwhile waits for his turn with this one.
            if not shared.has_clients() and self._shared.get(wanted) is shared:
                del self._shared[wanted]

    async def _open(self, wanted: Grant, cursor: StreamCursor | None, share: Share | None) -> Channel:
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
            share=share,
            namespace=only,
            reader=self._reader,
        )


def _cursor(last_id: str) -> StreamCursor:
    try:
        cursor = StreamCursor.from_text(last_id.partition(".")[0])
    except EngineError as exc:
        raise Validation("Last-Event-ID", "it was not sent by this service") from exc
    if cursor.is_empty:
        # The tail is where the others are, and no position that anybody was sent.
        raise Validation("Last-Event-ID", "it was not sent by this service")
    return cursor
