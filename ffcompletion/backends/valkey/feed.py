"""One stream of the Valkey backend: a bounded buffer behind the hub, and what it is owed once that has overflowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, final

from ffcompletion.backends.valkey.reconcile import Backlog, Told
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import StreamStats
from ffcompletion.delivery.adapter import Closable
from ffcompletion.delivery.buffer import Buffer
from ffcompletion.delivery.hub import Group, Hub, Member, Selector

__all__ = ["Feed", "Rescue", "since_opened"]


class Rescue(Protocol):
    """Where an overflowing stream gets what it missed."""

    def now_ms(self) -> int:
        """The server's time."""
        ...

    def backlog(self, selector: Selector) -> Backlog | None:
        """What a stream that overflows now is owed; None: nothing, it is lost."""
        ...

    def serve(self, feed: Feed) -> None:
        """The stream has room for some of it."""
        ...


@final
class Feed:
    """A source for ``Subscription`` and a member of the hub.

    A batch that does not fit puts it behind: it takes nothing from the hub until its consumer has made room, and gets
    what it missed from the index. Before the last of it is read it *rejoins*: it takes announcements again.
    """

    def __init__(
        self,
        hub: Hub,
        selector: Selector,
        limit: int,
        opened_ms: int,
        rescue: Rescue | None,
        on_close: Callable[[Closable], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._buffer = Buffer(limit)
        self._limit = limit
        self._rescue = rescue
        self._on_close = on_close
        self._missed = 0
        self._lost = 0
        self._overflows = 0
        self._overflowing = False
        self._rejoining = False
        self.selector = selector
        self.opened_ms = opened_ms
        """What happened before this time of the server's is not for this stream."""
        self.backlog: Backlog | None = None
        self.heard: list[Told] = []
        """What it has been told of since it rejoined."""
        self.closed: bool = False
        self._group: Group = hub.attach(self, selector)
        self._before = (self._group.filtered, self._group.undecided)

    # ── the hub's side ───────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None) -> None:
        """Take a batch. One that does not fit puts this stream behind; nobody else notices."""
        if self.backlog is not None and not self._rejoining:
            self._miss(batch)
        elif self._buffer.offer(batch, cursor):
            self._overflowing = False
            if self._rejoining and self._rescue is not None:
                self.heard.append((self._rescue.now_ms(), batch))
        else:
            self.overflow(batch)

    def overflow(self, batch: Sequence[CompletionPayload]) -> None:
        """It could not take a batch (or it could not be decided): it is owed."""
        if not self._overflowing:
            self._overflowing = True
            self._overflows += 1
        if self.backlog is None and self._rescue is not None:
            self.backlog = self._rescue.backlog(self.selector)
        self._leave()
        self._miss(batch)
        self.ask_for_more()

    def _miss(self, batch: Sequence[CompletionPayload]) -> None:
        if self.backlog is None:
            self._lost += len(batch)
        else:
            self._missed += len(batch)
            self.backlog.missed(batch)

    # ── the index's side ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> int:
        """Completions that the buffer has room for."""
        return max(0, self._limit - self._buffer.size)

    def rejoin(self) -> None:
        """Take what is announced, from now on."""
        self._rejoining = True
        self.heard = []

    def give(self, batch: Sequence[CompletionPayload], *, all_of_it: bool) -> bool:
        """Take some of what is owed, or the last of it. False if it does not fit, and is still owed."""
        taken = self._buffer.offer(batch)
        if taken and all_of_it and self._rejoining:
            self.backlog = None
            self._missed = 0
            self._rejoining = False
            self.heard = []
        else:
            self._leave()
        return taken

    def give_up(self) -> None:
        """Nothing can be read any more: what is owed is lost."""
        self._lost += self._missed
        self._missed = 0
        self.backlog = None
        self._rescue = None
        self._leave()

    def ask_for_more(self) -> None:
        """If something is owed and half the buffer is free."""
        if self.backlog is not None and self._rescue is not None and not self.closed and self.room * 2 >= self._limit:
            self._rescue.serve(self)

    def _leave(self) -> None:
        if self.backlog is not None:
            self.backlog.heard(self.heard)
        self.heard = []
        self._rejoining = False

    # ── the consumer's side ──────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> Sequence[CompletionPayload]:
        batch = self._buffer.take()
        self.ask_for_more()
        return batch

    async def ready(self) -> None:
        if not self.closed:
            await self._buffer.ready()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._hub.detach(self, self.selector)
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
            catching_up=self.backlog is not None,
        )


def since_opened(member: Member, batch: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
    """Of what was found in the index: what is not older than the stream."""
    if not isinstance(member, Feed) or not batch or batch[0].produced_at_ms >= member.opened_ms:
        return batch
    # Skipped ones bear the time of another clock.
    return [item for item in batch if item.produced_at_ms >= member.opened_ms or item.outcome == "skipped"]
