"""What one read of the outbox brings: drained into batches for every stream, with the gaps looked after beside it."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Final, final

from ffcompletion.backends.postgres.ahead import Ahead
from ffcompletion.backends.postgres.announced import Hints
from ffcompletion.backends.postgres.beginning import Beginning
from ffcompletion.backends.postgres.filtering import Filtering
from ffcompletion.backends.postgres.gap import over
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.history import History, anchors
from ffcompletion.backends.postgres.holders import Holding
from ffcompletion.backends.postgres.numbering import with_issued
from ffcompletion.backends.postgres.outbox import Stream
from ffcompletion.backends.postgres.queries import Queries, Query
from ffcompletion.backends.postgres.rows import Row, decode
from ffcompletion.backends.postgres.session import Session
from ffcompletion.backends.postgres.spans import Spans, covers, run_from
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.hub import Hub
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Reader", "log"]

log: Final = logger("ffcompletion.postgres")

# Rows per read: decoding 2,000 takes about 4 ms, the longest that the loop is held.
_PAGE: Final = 2_000
# So many announced ids are picked one by one; more of them are read as a page.
_PICKED: Final = 8
# So many late ones, too.
_PICKED_AT_ONCE: Final = 32
# How far below the newest id the ordinary read looks again for rows that committed late. Ids of transactions that
# run side by side lie close together; older gaps are looked for when they are announced, or when their owners end.
_REREAD: Final = 512
# Whoever is writing when we begin mostly ends in a moment: so long is waited for it, where nothing else is stored below.
_ENDS_WITHIN_S: Final = 0.1
_ASKED_EVERY_S: Final = 0.005
# Ripe gaps this close are looked for in one read, over so many ids in between and so many rows at the most.
_MERGE_WITHIN: Final = 1_000
_BETWEEN: Final = 5_000
# However little the sequence says, so often everything is looked at: a row may be written with an id of its own.
_LOOK_ANYWAY_S: Final = 30.0
# How soon after a gap was seen its owners are asked for, and how seldom while they take their time.
_SETTLE_FIRST_S: Final = 0.02
_SETTLE_LAST_S: Final = 1.0
# Who has held the watermark for so long is told of.
_HELD_S: Final = 60.0


@final
class Reader:
    """Reads through whatever session there is, and keeps the gap tracker over all of them."""

    def __init__(self, queries: Queries, hub: Hub[Stream], on_rewind: Callable[[int], None]) -> None:
        self._queries = queries
        self._page, self._picked = with_issued(queries.page()), with_issued(queries.picked())
        self._hub, self._on_rewind = hub, on_rewind
        self._malformed_log = RateLog(log)
        self._settle_every_s = _SETTLE_FIRST_S
        self.settle_at: float = 0.0
        """When open gaps are looked at again, in seconds of the monotonic clock."""
        self.tracker: GapTracker = GapTracker(0)
        self.behind: list[Filtering] = [Filtering(self.skipped)]
        """Where what is read goes on to the streams that need records looked up. The second place is of those that want
        results, so that nobody else waits for one; it is made for the first of them."""
        self.received: int = 0
        self.malformed: int = 0
        self.history: History = History()
        self.holding: Holding = Holding(_HELD_S)
        # Nothing up to this id is still to come: no need to look while the sequence stands there.
        self._quiet_at = 0
        self._looked_at = 0.0
        self._ahead = Ahead()
        self._beginning = Beginning(queries, self._ahead)

    async def find_start(self, session: Session) -> None:
        """Begin at the newest visible row. LISTEN must be live: what commits after this is announced or visible."""
        self.tracker = await self._beginning.tracker(session)
        self._quiet_at = 0
        start = self.tracker.start
        self.history.begin(start, await session.read(self._queries.picked(), (anchors(start),)))
        self.settle_at = time.monotonic()
        for place in self.behind:
            place.begin(self.tracker)
        if not self.tracker.watermark:
            await self._wait_for_writers(session)

    async def _wait_for_writers(self, session: Session) -> None:
        until = time.monotonic() + _ENDS_WITHIN_S
        while not self.tracker.watermark and self.tracker.gaps and time.monotonic() < until:
            self.settle_at = 0.0
            await self.settle(session)
            await asyncio.sleep(_ASKED_EVERY_S)

    def place(self, *, results: bool) -> Filtering:
        """Where a stream stands that needs records looked up."""
        if results and len(self.behind) == 1:
            made = Filtering(self.skipped)
            made.begin(self.tracker)
            self.behind.append(made)
        return self.behind[results]

    @property
    def waiting(self) -> int:
        """Rows that wait for their records."""
        return sum(place.waiting for place in self.behind)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def drain(self, session: Session, hints: Hints) -> bool:
        """One read of what was announced, or of all that is new. True if there may be more at once."""
        tracker, more = self.tracker, False
        if hints.ids and hints.ids[0] <= tracker.high and await self._replaced(session):
            # Ids that are known already: a read was quicker than the notification, or somebody was late; or ids began
            # anew, and then nothing is to be handed out before that is settled.
            return False
        new = [event_id for event_id in hints.ids if event_id > tracker.high]
        late = tracker.may_be_late(hints.ids)
        if hints.look or len(new) > _PICKED or (new and session.plain):
            more = await self._look(session)
            late = tracker.may_be_late(late)
        else:
            # Probing every partition for a few ids is cheaper than merging what all of them hold in order. What lies in
            # between and was not announced is a gap until it is settled.
            late += new
        upto = await self._read_late(session, late) if late else None
        while upto is not None and upto < tracker.floor:
            # No gaps: they are announced, once, and would not be met again.
            late = late[bisect_right(late, upto) :]
            upto = await self._read_late(session, late)
        if upto is not None:
            # The rest is new, or it is gaps, which are gone on with at once.
            self.settle_at = time.monotonic()
            return True
        return more

    async def poll(self, session: Session) -> bool:
        """Nothing was announced: look whether there is anything all the same. True if there may be more at once."""
        tracker = self.tracker
        now = time.monotonic()
        sequence = await session.sequence()
        if self.history.replaced_by(sequence, session.identity, tracker.high):
            return False
        if (known := self.history.due(now, _LOOK_ANYWAY_S, tracker.high)) is not None:
            rows = await session.read(self._queries.picked(), ([known],))
            if self.history.replaced_at(known, rows, tracker.high):
                return False
        issued = sequence.issued
        if issued is not None and not tracker.gaps and now < self._looked_at + _LOOK_ANYWAY_S:
            if issued <= max(tracker.high, self._quiet_at):
                return False
            # Ids were given out beyond what is visible. If nobody is writing any more, one look decides; not on a
            # replica, to which the sequence is told ahead of the ids that are given out.
            quiet = not session.in_recovery and not await session.owners()
            more = await self._look(session)
            if quiet and not more:
                self._quiet_at = issued
            return more
        self._looked_at = now
        return await self._look(session)

    async def _look(self, session: Session) -> bool:
        after = max(self.tracker.watermark, self.tracker.high - _REREAD)
        count, _ = await self._read(session, self._page, (after, _PAGE))
        return count >= _PAGE

    async def _read_late(self, session: Session, late: Sequence[int], *, decided: Spans | tuple[()] = ()) -> int | None:
        """Read rows with these ids (ascending), or as many as one question can. Returns up to where; None: all."""
        few, rest = late[:_PICKED_AT_ONCE], late[_PICKED_AT_ONCE:]
        if not rest or rest[0] - late[0] > _PAGE:
            await self._read(session, self._picked, (few,), decided=decided)
            return rest[0] - 1 if rest else None
        # A large transaction: each id would be probed for in every partition, which takes longer than all rows in order.
        count, last = await self._read(session, self._page, (late[0] - 1, _PAGE), decided=decided)
        return last if count >= _PAGE and last < late[-1] else None

    async def recognised(self, session: Session) -> bool:
        """Whether a server that was connected to anew has what was handed out: a copy of it, with all its names, may lag."""
        if (known := self.history.newest(self.tracker.high)) is not None:
            rows = await session.read(self._queries.picked(), ([known],))
            self.history.replaced_at(known, rows, self.tracker.high)
        return not await self._replaced(session)

    async def _replaced(self, session: Session) -> bool:
        return self.history.replaced_by(await session.sequence(), session.identity, self.tracker.high)

    async def _read(
        self, session: Session, query: Query, values: Sequence[object], *, decided: Spans | tuple[()] = ()
    ) -> tuple[int, int]:
        """Read rows, and hand out those whose ids the sequence has given out. Returns how many these are, and the last id.
        ``decided``: where whoever may own ids has ended.
        """
        rows, issued = await session.read_issued(query, values)
        rows.sort(key=_event_id)
        if issued is not None and rows and rows[-1][0] > issued:
            self._ahead.tell(rows[-1][0], issued)
            at = bisect_right(rows, issued, key=_event_id)
            self._ahead.remember(row[0] for row in rows[at:])
            del rows[at:]
        count, last = len(rows), rows[-1][0] if rows else 0
        if awaited := self._ahead.awaited(row[0] for row in rows if not covers(decided, (row[0], row[0]))):
            # Whoever was given such an id may be about to commit: both rows come then, or, once it has ended, this one.
            rows = [row for row in rows if row[0] not in awaited]
        if rows and (beneath := self.tracker.beneath(row[0] for row in rows)):
            self.tracker.below.extend(sorted(beneath))
            self._take([row for row in rows if row[0] in beneath], beneath=True)
        if rows or awaited:
            self._take(rows, awaited)
        return count, last

    def _take(self, rows: Sequence[Row], awaited: Collection[int] = (), *, beneath: bool = False) -> None:
        tracker = self.tracker
        opened = tracker.opened
        ids = [row[0] for row in rows]
        now = time.monotonic()
        fresh = tracker.admit(ids, now)
        for event_id in sorted(awaited):
            tracker.hold(event_id, now)
        self._ahead.forget(tracker.watermark)
        if tracker.opened > opened:
            self._settle_every_s = _SETTLE_FIRST_S
            self.settle_at = min(self.settle_at, now + _SETTLE_FIRST_S)
        if not fresh:
            return
        if len(fresh) < len(rows):
            rows = [rows[index] for index in fresh]
            ids = [row[0] for row in rows]
        decoded = decode(rows, tracker.watermark)
        self.received += len(rows)
        if decoded.malformed:
            self.skipped(decoded.malformed)
        self.history.remember(ids, rows)
        cursor, places = StreamCursor.outbox(tracker.watermark), decoded.places if beneath else {}
        self._hub.publish(Batch(decoded.payloads, cursor=cursor, ids=ids, beneath=places))
        for place in self.behind:
            place.admit(ids, decoded, tracker.watermark, beneath=beneath)

    def skipped(self, malformed: int) -> None:
        """Rows that make no completion were met, here or by a stream that catches up."""
        self.malformed += malformed
        self._malformed_log.warning("the outbox holds a row that makes no valid completion; skipped")

    # ── gaps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, session: Session) -> None:
        """If it is time: ask who may own the gaps, and decide some of those whose owners have all ended.

        A bounded piece at a time: rows that are new are read in between.
        """
        tracker = self.tracker
        await self._report_holders(session)
        if not (tracker.gaps or tracker.owned) or time.monotonic() < self.settle_at:
            return
        resolvable = tracker.resolvable
        if not resolvable:
            tracker.observe(await session.owners())
            resolvable = tracker.resolvable
        if resolvable:
            low, high = run_from(resolvable, _MERGE_WITHIN, _BETWEEN)
            # The others are only looked at.
            decided = over(tracker.gaps) if self._ahead else ()
            visible = await session.fetch(self._queries.ids(), (low - 1, high, _BETWEEN), read=True)
            if len(visible) == _BETWEEN:
                high = visible[-1][0]
            late = [row[0] for row in visible if not tracker.seen(row[0])]
            if late and (upto := await self._read_late(session, late, decided=decided)) is not None:
                high = upto
            retired = tracker.retire([(low, high)])
            if retired:
                # The watermark moved: streams learn of it with an empty batch.
                self._hub.publish(Batch(cursor=StreamCursor.outbox(tracker.watermark)))
                for place in self.behind:
                    place.retire(retired)
            self._settle_every_s = _SETTLE_FIRST_S
        else:
            self._settle_every_s = min(_SETTLE_LAST_S, self._settle_every_s * 2)
        self.settle_at = time.monotonic() + (0.0 if tracker.resolvable else self._settle_every_s)

    async def _report_holders(self, session: Session) -> None:
        tracker, holding, now = self.tracker, self.holding, time.monotonic()
        since = tracker.gaps[0].since if tracker.gaps else None
        if (line := holding.over(since, now)) is not None:
            log.info("%s", line)
        if since is not None and holding.due(since, now):
            log.warning("%s", holding.tell(since, now, await session.holders(), tracker.watermark, tracker.held))

    # ── another history ──────────────────────────────────────────────────────────────────────────────────────────

    async def compare_history(self, session: Session) -> None:
        """The server, the database or the outbox may be another one, or an earlier state of the same, and may give
        out ids again that were somebody else's. Hands out what it has, and goes on from what is the same.
        """
        tracker = self.tracker
        high = await self._beginning.same_upto(session, self.history, tracker.high)
        self.history.forget(high)
        self._quiet_at = 0
        if high < tracker.high:
            log.warning(
                "the outbox's history was replaced: it is read again after event %d, having been at %d",
                high,
                tracker.high,
            )
            tracker.rewind(high)
            for place in self.behind:
                place.rewind(high)
            self._on_rewind(high)


_event_id = itemgetter(0)
