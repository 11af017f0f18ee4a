"""One stream of the Postgres backend: reads stored rows at its own pace until it has caught up, then rides the hub.

What it still owes its consumer is always known exactly: everything up to *position* has been handed out, except the
*owed* spans. To join the hub it attaches first, noting the hub's highest id and open gaps, and then reads what is
owed up to there without those gaps; the hub brings them, and all the rest. Falling behind is the same backwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from ffcompletion.backends.postgres.catchup import Page, PageReader
from ffcompletion.backends.postgres.reader import Reader
from ffcompletion.backends.postgres.spans import Spans, union, without
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import StreamStats
from ffcompletion.delivery.adapter import Closable
from ffcompletion.delivery.buffer import Buffer
from ffcompletion.delivery.hub import Group, Hub, Selector

__all__ = ["Feed"]

_UNLIMITED: Final = (1 << 63) - 1
# Close enough to the live end to attach: less than a page, so that the buffer is not at risk meanwhile.
_JOIN_WITHIN: Final = 1_000
_POLITE_S: Final = 0.2
_PAGES_AHEAD: Final = 2


@final
class Feed:
    """A source for ``Subscription``, and by turns a member of the hub."""

    def __init__(
        self,
        reader: Reader,
        hub: Hub,
        pages: PageReader,
        selector: Selector,
        limit: int,
        on_close: Callable[[Closable], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._pages = pages
        self._selector = selector
        self._buffer = Buffer(limit)
        self._on_close = on_close
        self._group: Group | None = None
        self._before = (0, 0)
        self._position = 0
        self._owed: Spans = []
        # While joining: the hub's highest id and its open gaps at the moment of attaching.
        self._joined_at: tuple[int, Spans] | None = None
        self._caught_up = False
        self._stored: deque[Page] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._delivered = 0
        self._filtered = 0
        self._undecided = 0
        self._overflows = 0
        self._cursor = StreamCursor.beginning()
        self.closed: bool = False

    # ── where it begins ──────────────────────────────────────────────────────────────────────────────────────────

    def from_now(self) -> None:
        """Attach to the hub and owe nothing."""
        self._attach()
        self._caught_up = True
        self._cursor = StreamCursor.outbox(self._reader.tracker.watermark)

    def after(self, event_id: int) -> None:
        """Everything after a stored position is owed."""
        self._position = event_id
        self._cursor = StreamCursor.outbox(event_id)

    # ── the hub's side ───────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, batch: Sequence[CompletionPayload], cursor: StreamCursor | None) -> None:
        """Take a batch. One that does not fit puts this stream behind; nobody else notices."""
        if self._buffer.offer(batch, cursor):
            return
        self._overflows += 1
        self._detach()
        if self._joined_at is not None:
            # What is buffered is newer than what is owed and must not be consumed first: owe it again.
            self._position, gaps = self._joined_at
            self._owed = union(self._owed, gaps)
            self._joined_at = None
            self._buffer.drop()
        else:
            # All that the hub has handed out is buffered, except the batch in hand; open gaps are still to come.
            self._caught_up = False
            self._position = self._reader.tracker.high
            in_hand = [(event_id, event_id) for event_id in self._reader.in_hand]
            self._owed = union(self._reader.tracker.spans(), in_hand)
        self._buffer.wake()

    def rewind(self, high: int) -> None:
        """A promoted replica knows ids up to ``high`` only and gives later ones anew: owe nothing beyond it."""
        if self._caught_up or self.closed:
            return
        if self._joined_at is not None:
            self._detach()
            self._joined_at = None
            self._buffer.drop()
        self._position = min(self._position, high)
        self._owed = [(low, min(last, high)) for low, last in self._owed if low <= high]

    def _attach(self) -> None:
        group = self._group = self._hub.attach(self, self._selector)
        self._before = (group.filtered, group.undecided)

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
        elif self._joined_at is None and self._buffer.size:
            # Live, or what was buffered before it fell behind.
            batch = self._buffer.take()
        else:
            batch = ()
        self._delivered += len(batch)
        self._read_ahead()
        return batch

    def _take_stored(self, page: Page) -> Sequence[CompletionPayload]:
        piece = page.take()
        if not page:
            self._stored.popleft()
        self._filtered += piece.filtered
        self._undecided += piece.undecided
        if piece.malformed:
            self._reader.skipped(piece.malformed)
        self._cursor = StreamCursor.outbox(piece.reached)
        return piece.payloads

    @property
    def cursor(self) -> StreamCursor:
        # The buffer's moves on its own, past rows that were filtered out and gaps that came to nothing.
        live = self._buffer.cursor
        return self._cursor if live is None or live.position < self._cursor.position else live

    async def ready(self) -> None:
        if self._stored:
            # The piece just taken was filtered out whole: others get their turn before the next.
            await asyncio.sleep(0)
        while not (self.closed or self._stored or (self._joined_at is None and self._buffer.size)):
            self._read_ahead()
            await self._buffer.signal.wait()

    def _read_ahead(self) -> None:
        # What was buffered before it fell behind comes first, and is not to be overtaken.
        busy = self._reading is not None or (self._joined_at is None and self._buffer.size)
        if not (self.closed or self._caught_up or busy) and len(self._stored) < _PAGES_AHEAD:
            self._reading = asyncio.create_task(self._read(), name="ffcompletion-postgres-catchup")

    async def _read(self) -> None:
        """Keep two pages ready, so that the server works while the consumer does, until the stream is live."""
        try:
            while not self.closed and len(self._stored) < _PAGES_AHEAD and (plan := self._plan()) is not None:
                after, upto, watermark = plan
                page = await self._pages.read(self._selector, after, upto, watermark)
                if page is None:
                    return  # closed meanwhile
                self._owed = without(self._owed, [(after + 1, page.reached)])
                if after == self._position:
                    self._position = page.reached
                if page:
                    self._stored.append(page)
                    self._buffer.wake()
                elif not self._stored:
                    self._cursor = StreamCursor.outbox(min(page.reached, watermark))
        finally:
            self._reading = None
            self._buffer.wake()

    def _plan(self) -> tuple[int, int, int] | None:
        """What to read next: ``(after, upto, limit for cursors)``. None: nothing is owed, the stream is live."""
        tracker = self._reader.tracker
        if self._joined_at is None:
            settled = tracker.watermark
            if self._owed and self._owed[0][0] <= settled:
                low, high = self._owed[0]
                return low - 1, min(high, settled), _UNLIMITED
            if self._position < settled - _JOIN_WITHIN:
                return self._position, settled, _UNLIMITED
            self._attach()
            gaps = tracker.spans()
            self._joined_at = (tracker.high, gaps)
            rest = [(self._position + 1, tracker.high)] if self._position < tracker.high else []
            self._owed = without(union(self._owed, rest), gaps)
            self._position = max(self._position, tracker.high)
        if self._owed:
            (low, high), gaps = self._owed[0], self._joined_at[1]
            return low - 1, high, gaps[0][0] - 1 if gaps else _UNLIMITED
        self._joined_at = None
        self._caught_up = True
        return None

    # ── closing and counting ─────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        if not self.closed:
            self.closed = True
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
            catching_up=not (self._caught_up or self.closed),
        )
