"""One stream of the Postgres backend: reads stored rows at its own pace until it has caught up, then rides the hub.

What it owes its consumer, and where that would have to resume, is ``Standing``'s to know; this reads, attaches, hands over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from ffcompletion.backends.postgres.found import FoundEnds
from ffcompletion.backends.postgres.outbox import Outbox, Pages, StoredPage, Stream, for_stream
from ffcompletion.backends.postgres.rows import not_below
from ffcompletion.backends.postgres.silent import Backlog, End
from ffcompletion.backends.postgres.spans import union
from ffcompletion.backends.postgres.states import Attach, Read, Standing, StreamState
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import Lag, StreamStats
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.buffer import Buffer, Hand, Room
from ffcompletion.delivery.hub import Group, Hub, Selector
from ffcompletion.delivery.tenure import Leased

__all__ = ["Source"]

_CLOSE_GRACE_S: Final = 0.2
_PAGES_AHEAD: Final = 2


@final
class Source:
    """A source for ``Subscription``, and by turns a member of the hub."""

    def __init__(
        self,
        reader: Outbox,
        hub: Hub[Stream],
        pages: Pages,
        selector: Selector,
        limit: int,
        on_close: Callable[[Leased], Awaitable[None]],
        after: int | None,
    ) -> None:
        """``after``: everything after this position is pending; None is from now."""
        self._reader, self._hub = reader, hub
        self._pages = pages
        self.selector: Selector = selector
        self.backlog: Backlog = Backlog()
        """Ends that are still to be looked for on behalf of this stream alone."""
        self._buffer = Buffer(limit, weighed=selector.results)
        self._found = FoundEnds(self._buffer, 0)
        self._limit, self._after = limit, after
        self._on_close = on_close
        self._group: Group[Stream] | None = None
        # What its group had withheld when this stream joined it, and by the last batch that it took.
        self._before = self._seen = (0, 0)
        self._stored: deque[StoredPage] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._delivered = self._overflows = self._filtered = self._undecided = 0
        tracker = reader.tracker
        self._standing = Standing(tracker.now if after is None else after)
        if after is None:
            # Rows up to the highest were not asked for, and what is still to appear in the gaps commits after this.
            self._attach()
            self._standing.attached_now(tracker.high, len(tracker.below))

    # ── the hub's side ───────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, payloads: Sequence[CompletionPayload], batch: Batch) -> None:
        """Take them. What does not fit puts this stream behind; nobody else notices."""
        group = self._group
        payloads, ids = for_stream(payloads, batch, self._after)
        # While it joins, what is stored is still to be read, and to be taken before anything of the buffer.
        alone = self._standing.state is not StreamState.JOINING or not payloads
        if not ((alone or self._buffer.leaves_half(payloads)) and self._buffer.offer(payloads, batch.cursor)):
            self.fall_behind(ids)
        elif group is not None:
            seen = group.filtered, group.undecided
            if ids is not batch.ids:
                # Whatever it withheld of these is counted where it reads them.
                self._before = (self._before[0] + seen[0] - self._seen[0], self._before[1] + seen[1] - self._seen[1])
            self._seen = seen

    def fall_behind(self, in_hand: Sequence[int]) -> None:
        """The rows that are being handed out, and what follows, are not for this stream: it reads what is stored."""
        self._overflows += 1
        self._detach(self._standing.state)
        tracker = self._reader.tracker
        # What is buffered while joining is newer than what is pending, and must not be consumed first.
        still_open = union(tracker.spans(), [(event_id, event_id) for event_id in in_hand])
        if self._standing.overflowed(tracker.high, still_open, len(tracker.below)):
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
            self._detach(StreamState.JOINING)
            self._buffer.drop()
        self._buffer.rewind(StreamCursor.outbox(high))
        for page in self._stored:
            page.limit_cursors(high)
        self._buffer.wake()

    def _attach(self) -> None:
        group = self._group = self._hub.attach(self, self.selector)
        self._before = self._seen = (group.filtered, group.undecided)
        self._buffer.cursor = StreamCursor.outbox(self._reader.tracker.watermark)

    def _detach(self, state: StreamState) -> None:
        self._filtered, self._undecided = self._counts(state)
        self._group = None
        self._hub.detach(self, self.selector)

    def _counts(self, state: StreamState) -> tuple[int, int]:
        # Should it fall behind while it joins, all of this is read and counted again; and so is a batch that did not fit.
        new = self._group is not None and state is not StreamState.JOINING
        filtered, undecided = (now - before if new else 0 for now, before in zip(self._seen, self._before, strict=True))
        return self._filtered + filtered, self._undecided + undecided

    # ── the reconciler's side ────────────────────────────────────────────────────────────────────────────────────

    def opened(self, server_ms: int, since_ms: int | None) -> None:
        """When it was opened, by the server's clock; ``since_ms``: ends from then on were missed before, and are wanted."""
        self._found = FoundEnds(self._buffer, server_ms if since_ms is None else since_ms)
        self.backlog = Backlog(since_ms)

    @property
    def room(self) -> Room:
        """What it can take of what ended without a row."""
        # Whatever its size, a result fits into a page that is being read alone, and none beside it.
        return Room(self._buffer.room.items, 0, alone=False) if self._buffer.reserved_alone else self._buffer.room

    def unseen(self, ends: Sequence[End], /) -> Sequence[End]:
        """Those of the ends that are for it, and were not decided for it."""
        return self._found.unseen(ends)

    def found(self, ends: Sequence[End], chosen: Sequence[CompletionPayload], withheld: tuple[int, int], /) -> None:
        """These ends were decided: what it admits of them, and how many are filtered and undecided."""
        if not self.closed:
            self._found.add(ends, chosen, withheld)

    # ── the consumer's side ──────────────────────────────────────────────────────────────────────────────────────

    def take(self) -> Hand:
        least, taken = self.cursor, self._take()
        hand = self._buffer.hand(not_below(taken, least))
        self._delivered += len(hand.batch)
        self._read_ahead()
        return hand

    def _take(self) -> Sequence[CompletionPayload]:
        if self._found:
            return self._found.take(self.cursor)
        if self._stored:
            return self._found.without_given(self._take_stored(self._stored[0]))
        if not self._buffered:
            return ()
        batch = self._buffer.take()
        if not self._buffer.size:
            self._standing.drained()
        return self._found.without_given(batch)

    @property
    def _buffered(self) -> bool:
        """Whether what waits in the buffer comes next: not while older rows are still to be read."""
        return bool(self._buffer.size) and self._standing.state is not StreamState.JOINING

    def _take_stored(self, page: StoredPage) -> Sequence[CompletionPayload]:
        before = len(page)
        # So that there is room for the next page before all of this is yielded.
        piece = page.take(max(1, self._limit // 2))
        self._buffer.keep(len(page) - before, 0)
        if page:
            self._standing.page_taken(piece.upto)
        else:
            self._stored.popleft()
            self._buffer.keep(0, -page.bytes)
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
        return self.closed or bool(self._found) or bool(self._stored) or self._buffered

    def _read_ahead(self) -> None:
        # What was buffered before it fell behind comes first, and is not to be overtaken.
        if self._reading is None and self._standing.reads and self._may_read:
            self._reading = asyncio.create_task(self._read(), name="ffcompletion-postgres-pages")

    @property
    def _may_read(self) -> bool:
        """Whether there is room for a page: one that is read ahead is to be worth reading."""
        items = self._buffer.room.items
        return items > 0 if not self._stored else len(self._stored) < _PAGES_AHEAD and items * 4 >= self._limit

    async def _read(self) -> None:
        """Keep two pages ready, so that the server works while the consumer does, until the stream is live."""
        standing = self._standing
        try:
            while self._may_read and (step := self._next_read()) is not None:
                generation = standing.generation
                page = await self._read_page(step)
                if page is None:
                    return  # closed meanwhile
                if generation != standing.generation:
                    continue  # of a history that was replaced meanwhile
                if (missing := page.missed()).spans:
                    self._buffer.rewind(StreamCursor.outbox(self._reader.tracker.watermark))
                standing.page_read(step, page.reached, rows=bool(page), missing=missing)
                if page:
                    self._stored.append(page)
                    self._buffer.keep(len(page), page.bytes)
                    self._buffer.wake()
                crowded = page.reached <= step.after or not (self._buffer.room.bytes or self._buffer.room.alone)
                if crowded and standing.state is StreamState.JOINING and self._buffer.size:
                    # A large result: what the hub brought meanwhile is read again behind it.
                    self.fall_behind(())
                elif crowded:
                    return  # until what the consumer has in hand is gone
        finally:
            self._reading = None
            self._buffer.wake()

    async def _read_page(self, step: Read) -> StoredPage | None:
        room = self._buffer.room
        if self._standing.state is StreamState.JOINING:
            room = room.half()
        with self._buffer.reserved(room):
            return await self._pages.read(self.selector, step, room)

    def _next_read(self) -> Read | None:
        tracker = self._reader.tracker
        while True:
            step = self._standing.next_step(tracker.watermark, tracker.settled_after(self._standing.read_to))
            if not isinstance(step, Attach):
                return step
            self._attach()
            # Who has resumed reads what lies below by itself.
            below = tracker.below if self._after is None else ()
            self._standing.attached(tracker.high, tracker.spans(), below)

    # ── closing and counting ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> bool:
        return self._standing.state is StreamState.CLOSED

    def abort(self) -> None:
        if not self.closed:
            state = self._standing.state
            self._standing.closed(self._live())
            self._detach(state)
            self._pages.finish()
            self._buffer.wake()

    async def aclose(self) -> None:
        self.abort()
        reading = self._reading
        try:
            if reading is not None:
                done, _ = await asyncio.wait({reading}, timeout=_CLOSE_GRACE_S)
                if not done:
                    self._pages.abort()
                    await asyncio.wait({reading}, timeout=_CLOSE_GRACE_S)
        except asyncio.CancelledError:
            # Whoever closes may be cancelled; nothing is to stay open for that.
            self._pages.abort()
            raise
        finally:
            await self._on_close(self)

    def stats(self) -> StreamStats:
        filtered, undecided = self._counts(self._standing.state)
        buffered = self._buffer.size + sum(map(len, self._stored)) + len(self._found)
        behind = buffered + self._standing.unread(self._reader.tracker.high)
        return StreamStats(
            delivered=self._delivered,
            buffered=buffered,
            filtered=filtered + self._found.filtered,
            undecided=undecided + self._found.undecided,
            overflows=self._overflows,
            catching_up=self._standing.catching_up,
            lag=Lag(completions=behind, seconds=self._age_s()) if behind else Lag(),
        )

    def _age_s(self) -> float | None:
        """How old the next is, where it is in memory: not while it is still to be read, or decoded."""
        if self._found:
            return self._found.age_s
        return self._buffer.age_s if self._buffered and not self._stored else None
