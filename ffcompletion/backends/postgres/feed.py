"""One stream of the Postgres backend: reads stored rows at its own pace until it has caught up, then rides the hub.

What it owes its consumer, and where that would have to resume, is ``Standing``'s to know; this does the reading, the
attaching and the handing over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, final

from ffcompletion.backends.postgres.catchup import Piece
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.spans import union
from ffcompletion.backends.postgres.states import Attach, Read, Standing, StreamState
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import StreamStats
from ffcompletion.delivery.adapter import Closable
from ffcompletion.delivery.buffer import Buffer
from ffcompletion.delivery.hub import Group, Hub, Selector

__all__ = ["Feed", "Outbox", "Pages", "StoredPage"]

_POLITE_S: Final = 0.2
_PAGES_AHEAD: Final = 2


class Outbox(Protocol):
    """Where the one reader of the outbox stands; or, for streams that need lookups, the lane behind it."""

    tracker: GapTracker
    in_hand: Sequence[int]
    """Ids of the rows that are being handed out."""

    def skipped(self, malformed: int, /) -> None:
        """Rows that make no completion were met."""
        ...


class StoredPage(Protocol):
    """Rows that were read and are decoded as they are taken; its length is how many are left."""

    @property
    def reached(self) -> int:
        """The page holds everything up to this id."""
        ...

    def __len__(self) -> int: ...

    def take(self) -> Piece:
        """The next of them."""
        ...

    def limit_cursors(self, limit: int, /) -> None:
        """No payload taken from now on may have a cursor beyond this."""
        ...


class Pages(Protocol):
    """Reads stored rows for one stream."""

    async def read(self, selector: Selector, after: int, upto: int, limit: int, /) -> StoredPage | None:
        """Rows in ``(after, upto]``, as many as fit; None if the stream was closed meanwhile."""
        ...

    def stop(self) -> None:
        """No read after this one."""
        ...

    def abort(self) -> None:
        """Make a read that is under way fail at once."""
        ...


@final
class Feed:
    """A source for ``Subscription``, and by turns a member of the hub."""

    def __init__(
        self,
        reader: Outbox,
        hub: Hub,
        pages: Pages,
        selector: Selector,
        limit: int,
        on_close: Callable[[Closable], Awaitable[None]],
        after: int | None,
    ) -> None:
        """``after``: everything after this position is pending; None is from now."""
        self._reader = reader
        self._hub = hub
        self._pages = pages
        self._selector = selector
        self._buffer = Buffer(limit)
        self._on_close = on_close
        self._group: Group | None = None
        self._before = (0, 0)
        self._stored: deque[StoredPage] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._delivered = 0
        self._filtered = 0
        self._undecided = 0
        self._overflows = 0
        tracker = reader.tracker
        self._standing = Standing(tracker.watermark if after is None else after)
        if after is None:
            # Attached, with nothing pending: rows up to the highest were not asked for, and what is still to appear
            # in the gaps commits after this.
            self._attach()
            self._standing.attached_now(tracker.high)

    # ── the hub's side ───────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None) -> None:
        """Take a batch. One that does not fit puts this stream behind; nobody else notices."""
        if not self._buffer.offer(batch, cursor):
            self.fall_behind()

    def fall_behind(self) -> None:
        """What is being handed out, and what follows, is not for this stream: it reads what is stored."""
        self._overflows += 1
        self._detach()
        tracker = self._reader.tracker
        in_hand = [(event_id, event_id) for event_id in self._reader.in_hand]
        # What is buffered while joining is newer than what is pending, and must not be consumed first.
        if self._standing.overflowed(tracker.high, union(tracker.spans(), in_hand)):
            self._buffer.drop()
        if not self._buffer.size:
            # Nothing that came before is left to be taken first.
            self._standing.drained()
        self._buffer.wake()

    def rewind(self, high: int) -> None:
        """A promoted replica knows ids up to ``high`` only and gives later ones anew: nothing beyond it is pending."""
        if self.closed:
            return
        if self._standing.rewound(high):
            self._detach()
            self._buffer.drop()
        self._buffer.rewind(StreamCursor.outbox(high))
        for page in self._stored:
            page.limit_cursors(high)
        self._buffer.wake()

    def _attach(self) -> None:
        group = self._group = self._hub.attach(self, self._selector)
        self._before = (group.filtered, group.undecided)
        self._buffer.cursor = StreamCursor.outbox(self._reader.tracker.watermark)

    def _detach(self) -> None:
        self._filtered, self._undecided = self._counts()
        self._group = None
        self._hub.detach(self, self._selector)

    def _counts(self) -> tuple[int, int]:
        group = self._group
        if group is None:
            return self._filtered, self._undecided
        return (
            self._filtered + group.filtered - self._before[0],
            self._undecided + group.undecided - self._before[1],
        )

    # ── the consumer's side ──────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> Sequence[CompletionPayload]:
        if self._stored:
            batch = self._take_stored(self._stored[0])
        elif self._buffered:
            batch = self._buffer.take()
            if not self._buffer.size:
                self._standing.drained()
        else:
            batch = ()
        self._delivered += len(batch)
        self._read_ahead()
        return batch

    @property
    def _buffered(self) -> bool:
        """Whether what waits in the buffer comes next: not while older rows are still to be read."""
        return bool(self._buffer.size) and self._standing.state is not StreamState.JOINING

    def _take_stored(self, page: StoredPage) -> Sequence[CompletionPayload]:
        piece = page.take()
        if page:
            self._standing.page_taken(piece.upto)
        else:
            self._stored.popleft()
            self._standing.page_taken(None)
        self._filtered += piece.filtered
        self._undecided += piece.undecided
        if piece.malformed:
            self._reader.skipped(piece.malformed)
        return piece.payloads

    @property
    def cursor(self) -> StreamCursor:
        """Where to resume once everything taken has been consumed."""
        return StreamCursor.outbox(self._standing.resume_position(self._live()))

    def _live(self) -> int | None:
        """Everything up to here that the hub has brought was taken; None if it brings nothing and nothing waits."""
        if self._group is None and not self._buffer.size:
            return None
        return None if self._buffer.cursor is None else self._buffer.cursor.position

    async def ready(self) -> None:
        if self._stored:
            # The piece just taken was filtered out whole: others get their turn before the next.
            await asyncio.sleep(0)
        await self._buffer.signal.until(self._something)

    def _something(self) -> bool:
        self._read_ahead()
        return self.closed or bool(self._stored) or self._buffered

    def _read_ahead(self) -> None:
        # What was buffered before it fell behind comes first, and is not to be overtaken.
        if self._reading is None and self._standing.reads and len(self._stored) < _PAGES_AHEAD:
            self._reading = asyncio.create_task(self._read(), name="ffcompletion-postgres-catchup")

    async def _read(self) -> None:
        """Keep two pages ready, so that the server works while the consumer does, until the stream is live."""
        standing = self._standing
        try:
            while len(self._stored) < _PAGES_AHEAD and (step := self._next_read()) is not None:
                generation = standing.generation
                page = await self._pages.read(self._selector, step.after, step.upto, step.limit)
                if page is None:
                    return  # closed meanwhile
                if generation != standing.generation:
                    continue  # of a history that was replaced meanwhile
                standing.page_read(step.after, page.reached, rows=bool(page))
                if page:
                    self._stored.append(page)
                    self._buffer.wake()
        finally:
            self._reading = None
            self._buffer.wake()

    def _next_read(self) -> Read | None:
        tracker = self._reader.tracker
        while True:
            step = self._standing.next_step(tracker.watermark)
            if not isinstance(step, Attach):
                return step
            self._attach()
            self._standing.attached(tracker.high, tracker.spans())

    # ── closing and counting ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> bool:
        return self._standing.state is StreamState.CLOSED

    def close(self) -> None:
        if not self.closed:
            self._standing.closed(self._live())
            self._detach()
            self._pages.stop()
            self._buffer.wake()

    async def released(self) -> None:
        reading = self._reading
        if reading is not None:
            done, _ = await asyncio.wait({reading}, timeout=_POLITE_S)
            if not done:
                self._pages.abort()
                await asyncio.wait({reading}, timeout=_POLITE_S)
        await self._on_close(self)

    def stats(self) -> StreamStats:
        filtered, undecided = self._counts()
        return StreamStats(
            delivered=self._delivered,
            buffered=self._buffer.size + sum(map(len, self._stored)),
            filtered=filtered,
            undecided=undecided,
            overflows=self._overflows,
            catching_up=self._standing.catching_up,
        )
