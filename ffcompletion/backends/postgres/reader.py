"""What one read of the outbox brings: drained into batches for every stream, with the gaps looked after beside it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.rows import Row, decode
from ffcompletion.backends.postgres.session import Session
from ffcompletion.backends.postgres.spans import merged, missing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.delivery.hub import Hub
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Reader", "log"]

log: Final = logger("ffcompletion.postgres")

# Rows per read: decoding 2,000 takes about 4 ms, the longest that the loop is held.
_PAGE: Final = 2_000
# How far below the newest id the ordinary read looks again for rows that committed late. Ids of transactions that
# run side by side lie close together; older gaps are looked for when they are announced, or when their owners end.
_REREAD: Final = 512
# Ids below the start that are examined for transactions already under way.
_LOOK_BACK: Final = 100_000
# Ripe gaps this close are looked for in one read, of so many ids at the most: only ids are read, 1,000 in a
# millisecond or so, while each read costs one by itself.
_MERGE_WITHIN: Final = 1_000
_STRETCH: Final = 20_000
# How soon after a gap was seen its owners are asked for, and how seldom while they take their time.
_SETTLE_FIRST_S: Final = 0.02
_SETTLE_LAST_S: Final = 1.0
# Rows by which a replica may lag when it is promoted, and still be compared with what was handed out.
_REMEMBERED: Final = 10_000


@final
class Reader:
    """Reads through whatever session there is, and keeps the gap tracker over all of them."""

    def __init__(self, queries: Queries, hub: Hub, on_rewind: Callable[[int], None]) -> None:
        self._queries = queries
        self._hub = hub
        self._on_rewind = on_rewind
        self._malformed_log = RateLog(log)
        self._settle_every_s = _SETTLE_FIRST_S
        self.settle_at: float = 0.0
        """When open gaps are looked at again, in seconds of the monotonic clock."""
        self.tracker: GapTracker = GapTracker(0)
        self.in_hand: Sequence[int] = ()
        """Ids of the rows that are being handed out, for a stream that cannot take them."""
        self.received: int = 0
        self.malformed: int = 0
        # What was handed out last, to be compared with what a promoted replica has.
        self._recent: deque[tuple[Sequence[int], Sequence[str | None]]] = deque()
        self._recent_rows = 0

    async def find_start(self, session: Session) -> None:
        """Begin at the newest visible row. LISTEN must be live: what commits after this is announced or visible."""
        now = time.monotonic()
        self.tracker = GapTracker(await self._newest(session))
        start = self.tracker.start
        if start and (session.in_recovery or await session.owners()):
            # Somebody is writing: ids just below the start may belong to them.
            floor = max(0, start - _LOOK_BACK)
            visible = await session.fetch(self._queries.ids(), (floor, start))
            self.tracker.assume(missing([floor, *(row[0] for row in visible), start + 1]), now)
        self.settle_at = now

    async def _newest(self, session: Session) -> int:
        """The highest visible id; in an outbox that was emptied, the last id given out, where that may be seen.

        Otherwise everything trimmed would be a gap, and cursors would stand at the beginning until it was settled.
        """
        rows = await session.fetch(self._queries.high())
        if not rows:
            rows = await session.fetch(*self._queries.issued())
        return (rows[0][0] or 0) if rows else 0

    async def drain(self, session: Session, announced: Sequence[str]) -> bool:
        """One read, and one more for ids that were announced and lie below it. True if there may be more at once."""
        tracker = self.tracker
        after = max(tracker.watermark, tracker.high - _REREAD)
        rows = await self._read(session, after)
        late = tracker.may_be_late(_ids(announced)) if announced else []
        if late:
            await self._read(session, late)
        return len(rows) == _PAGE

    async def compare_history(self, session: Session) -> None:
        """The server was replaced by a promoted replica, which may lack the newest rows and give out their ids again.

        Hands out what it has under an id that was somebody else's, and goes on from the newest row that it has.
        """
        tracker = self.tracker
        known = {event_id: name for ids, names in self._recent for event_id, name in zip(ids, names, strict=True)}
        newest = await self._newest(session)
        after = min(known, default=newest + 1) - 1
        replaced: list[int] = []
        while after < min(newest, tracker.high):
            query = self._queries.page(facts=False, results=False)
            page = await session.fetch(query, (after, _PAGE), read=True)
            replaced += [row[0] for row in page if row[0] in known and known[row[0]] != row[1]]
            after = page[-1][0] if page else newest
        if newest < tracker.high or replaced:
            log.warning("the server's history was replaced: %d ids name other rows now", len(replaced))
        self._recent.clear()
        self._recent_rows = 0
        # Down to below the first that differs: what was handed out before it stays so.
        high = min([newest, *(event_id - 1 for event_id in replaced)])
        if high < tracker.high:
            tracker.rewind(high)
            self._on_rewind(high)

    async def settle(self, session: Session) -> None:
        """If it is time: ask who may own the gaps, and decide those whose owners have all ended."""
        tracker = self.tracker
        if not tracker.gaps or time.monotonic() < self.settle_at:
            return
        tracker.observe(await session.owners())
        ripe = merged(tracker.ripe, _MERGE_WITHIN, _STRETCH)
        for low, high in ripe:
            visible = await session.fetch(self._queries.ids(), (low - 1, high), read=True)
            late = [row[0] for row in visible if not tracker.seen(row[0])]
            if late:
                await self._read(session, late)
            # One by one: a fault in between does not undo what has been decided.
            tracker.retire([(low, high)])
        if ripe:
            # The watermark moved: streams learn of it with an empty batch.
            self._hub.publish((), cursor=StreamCursor.outbox(tracker.watermark))
            self._settle_every_s = _SETTLE_FIRST_S
        else:
            self._settle_every_s = min(_SETTLE_LAST_S, self._settle_every_s * 2)
        self.settle_at = time.monotonic() + self._settle_every_s

    async def _read(self, session: Session, which: int | list[int]) -> Sequence[Row]:
        """Read and hand out rows after an id, or those with these ids. Returns what was read."""
        while True:
            facts, results = self._wanted()
            if isinstance(which, int):
                rows = await session.fetch(self._queries.page(facts=facts, results=results), (which, _PAGE), read=True)
            else:
                rows = await session.fetch(self._queries.picked(facts=facts, results=results), (which,), read=True)
            now_facts, now_results = self._wanted()
            # A stream that asks for more may have joined meanwhile, and it counts on these rows: read them again.
            if facts >= now_facts and results >= now_results:
                break
        if rows:
            self._take(rows, facts=facts, results=results)
        return rows

    def _wanted(self) -> tuple[bool, bool]:
        return bool(self._hub.filters), self._hub.wants_results

    def _take(self, rows: Sequence[Row], *, facts: bool, results: bool) -> None:
        tracker = self.tracker
        gaps = len(tracker.gaps)
        ids = [row[0] for row in rows]
        now = time.monotonic()
        fresh = tracker.admit(ids, now)
        if len(tracker.gaps) > gaps:
            self._settle_every_s = _SETTLE_FIRST_S
            self.settle_at = min(self.settle_at, now + _SETTLE_FIRST_S)
        if not fresh:
            return
        if len(fresh) < len(rows):
            rows = [rows[index] for index in fresh]
            ids = [row[0] for row in rows]
        batch = decode(rows, tracker.watermark, facts=facts, results=results)
        self.received += len(rows)
        if batch.malformed:
            self.skipped(batch.malformed)
        self._remember(rows, ids)
        self.in_hand = ids
        self._hub.publish(batch.plain, batch.with_results, batch.facts, StreamCursor.outbox(tracker.watermark))

    def skipped(self, malformed: int) -> None:
        """Rows that make no completion were met, here or by a stream that catches up."""
        self.malformed += malformed
        self._malformed_log.warning("the outbox holds a row that makes no valid completion; skipped")

    def _remember(self, rows: Sequence[Row], ids: Sequence[int]) -> None:
        self._recent.append((ids, [row[1] for row in rows]))
        self._recent_rows += len(rows)
        while self._recent_rows - len(self._recent[0][0]) >= _REMEMBERED:
            self._recent_rows -= len(self._recent.popleft()[0])


def _ids(announced: Sequence[str]) -> list[int]:
    try:
        return [int(payload) for payload in announced]
    except ValueError:
        # Somebody else uses the channel too: a wake-up, and no more.
        return [int(payload) for payload in announced if payload.isascii() and payload.isdigit()]
