"""One stream of the Valkey backend: a bounded buffer behind the hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import final

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import StreamStats
from ffcompletion.delivery.adapter import Closable
from ffcompletion.delivery.buffer import Buffer
from ffcompletion.delivery.hub import Group, Hub, Selector

__all__ = ["Feed"]


@final
class Feed:
    """A source for ``Subscription`` and a member of the hub."""

    def __init__(
        self, hub: Hub, selector: Selector, limit: int, on_close: Callable[[Closable], Awaitable[None]]
    ) -> None:
        self._hub = hub
        self._selector = selector
        self._buffer = Buffer(limit)
        self._on_close = on_close
        self._lost = 0
        self._overflows = 0
        self._overflowing = False
        self.closed = False
        self._group: Group = hub.attach(self, selector)
        self._before = (self._group.filtered, self._group.undecided)

    def deliver(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None) -> None:
        """Take a batch. One that does not fit is counted as lost; nobody else notices."""
        if self._buffer.offer(batch, cursor):
            self._overflowing = False
            return
        self._lost += len(batch)
        if not self._overflowing:
            self._overflowing = True
            self._overflows += 1

    def take(self) -> Sequence[CompletionPayload]:
        return self._buffer.take()

    async def ready(self) -> None:
        if not self.closed:
            await self._buffer.ready()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._hub.detach(self, self._selector)
            self._buffer.wake()

    async def released(self) -> None:
        await self._on_close(self)

    @property
    def cursor(self) -> StreamCursor | None:
        return None

    def stats(self) -> StreamStats:
        return StreamStats(
            delivered=self._buffer.taken,
            buffered=self._buffer.size,
            filtered=self._group.filtered - self._before[0],
            undecided=self._group.undecided - self._before[1],
            lost=self._lost,
            overflows=self._overflows,
        )
