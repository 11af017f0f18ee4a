"""Hands rows to the streams that need records looked up (a filter, a result), behind the reader that waits for none.

What the reader hands out queues here, in order. One task takes what waits, asks for the records that the rows do not
decide without, and hands it on. Without an answer nothing is let through and nothing is dropped: it is asked again.
This has a place of its own, behind the reader's: its streams join, fall behind, and resume by that place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from ffcompletion.backends.postgres.connection import Connection, end_task
from ffcompletion.backends.postgres.facts import Needs, Record, facts_of
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.outbox import Stream
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queued import Item, Queued
from ffcompletion.backends.postgres.results import Budget, admitted, dispute, stored_sizes
from ffcompletion.backends.postgres.retrying import Retrying
from ffcompletion.backends.postgres.rows import Decoded, decode, with_results
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.delivery.batch import Batch, Facts
from ffcompletion.delivery.hub import Hub
from ffcompletion.foreign.logs import logger

__all__ = ["Filtering"]

_log: Final = logger("ffcompletion.postgres")

# Rows that may wait for answers: of most of them only the ids are held, in eight bytes each at the most. Beyond that the
# streams read what is stored, at their own pace.
_WAITING: Final = 5_000_000


@final
class Filtering:
    """Where the streams that need lookups stand; to them it is what the reader is to the others."""

    def __init__(self, skipped: Callable[[int], None]) -> None:
        self.hub: Hub[Stream] = Hub()
        self.tracker: GapTracker = GapTracker(0)
        self.skipped: Callable[[int], None] = skipped
        self._queue = Queued()
        self._arrived = asyncio.Event()
        self.history: int = 0
        """Changes when what waits is no longer what it was: it is to be looked at anew."""
        self.budget: Budget = Budget()
        self._conn: Connection | None = None
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Rows that wait for their records."""
        return self._queue.waiting

    # ── the reader's side ────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, tracker: GapTracker) -> None:
        """Stand where the reader begins."""
        self._queue.clear()
        self.tracker = tracker.copy()
        # An event belongs to the loop that it is first waited on.
        self._arrived = asyncio.Event()
        self._stopping = False

    def admit(self, ids: Sequence[int], decoded: Decoded, watermark: int, *, beneath: bool = False) -> None:
        """The reader hands out these rows. ``watermark``: no payload's cursor goes beyond it. ``beneath``: nobody looked there."""
        if not self._queue and self._decided(decoded):
            self._hand_out(ids, decoded, facts_of(decoded.rows, {}, frozenset()), beneath=beneath)
            return
        self._queue.add(ids, decoded, watermark, beneath=beneath)
        if self.waiting > _WAITING:
            self._fall_behind()
        self._arrived.set()

    def retire(self, gaps: Sequence[tuple[int, int]]) -> None:
        """The reader has given up these gaps."""
        if self._queue:
            self._queue.add_gaps(gaps)
        else:
            self._give_up(gaps)

    def rewind(self, high: int) -> None:
        """The server's history was replaced by one that knows ids up to ``high`` only."""
        self.history += 1
        self._queue.rewind(high)
        self.tracker.rewind(high)

    def _decided(self, decoded: Decoded) -> bool:
        groups = self.hub.groups
        return not groups or not Needs.of([group.selector for group in groups]).lookups(decoded.rows)

    def _fall_behind(self) -> None:
        _log.warning("%d rows wait for their records; filtered streams go on from what is stored", self.waiting)
        for group in self.hub.groups:
            for member in tuple(group.members):
                member.fall_behind(())
        self._skip_all()

    def _skip_all(self) -> None:
        # Nobody is a member any more, and whoever joins reads all this from what is stored.
        self.history += 1
        for item in self._queue:
            self.tracker.admit(item.ids, time.monotonic())
            self.tracker.below.extend(item.ids if item.beneath else ())
            self.tracker.give_up(item.gaps)
        self._queue.clear()

    def _give_up(self, gaps: Sequence[tuple[int, int]]) -> None:
        self.tracker.give_up(gaps)
        # The watermark moved: streams learn of it with an empty batch.
        self.hub.publish(Batch(cursor=StreamCursor.outbox(self.tracker.watermark)))

    def _hand_out(
        self,
        ids: Sequence[int],
        decoded: Decoded,
        facts: Sequence[Facts | None],
        results: Mapping[str, bytes | None] | None = None,
        *,
        beneath: bool,
    ) -> None:
        self.tracker.admit(ids, time.monotonic())
        self.tracker.below.extend(ids if beneath else ())
        if self.hub.groups:
            rich = None if results is None else with_results(decoded.payloads, results)
            places = decoded.places if beneath else {}
            cursor = StreamCursor.outbox(self.tracker.watermark)
            self.hub.publish(Batch(decoded.payloads, rich, facts, cursor, ids, places))

    # ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────

    def queries_on(self, conn: Connection | None) -> None:
        """A question is under way on this connection; None: no longer."""
        self._conn = conn

    async def aclose(self, task: asyncio.Task[None], seconds: float) -> None:
        """End ``run``, which is this task, within so many seconds."""
        self._stopping = True
        self.history += 1
        await end_task(task, self._conn, seconds)

    async def run(self, pool: Pool, lookups: Callable[[], Lookups], seconds: float) -> None:
        """Until cancelled. ``lookups``: the questions as the server of now wants them, each to be answered in time."""
        while not self._stopping:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue and not self._stopping:
                if self._queue.head.gaps:
                    self._give_up(self._queue.pop_gaps())
                    continue
                retrying = Retrying(self, pool, lookups, seconds)
                try:
                    if self._queue.head.decoded is None:
                        await self._read_again(self._queue.head, retrying)
                    else:
                        await self._decide(self._queue.together(), retrying)
                except Exception:  # noqa: BLE001  # it is logged, and nothing is lost by it
                    _log.exception("an error of our own; filtered streams go on from what is stored")
                    self._fall_behind()

    async def _read_again(self, item: Item, retrying: Retrying) -> None:
        rows = await retrying.rows(item.ids)
        if not retrying.outdated:
            self._queue.read_again(decode(rows, item.watermark))

    async def _decide(self, items: Sequence[tuple[Item, Decoded]], retrying: Retrying) -> None:
        rows = [row for _, decoded in items for row in decoded.rows]
        records: dict[str, Record] = {}
        looked_up: set[str] = set()
        for _, decoded in items:
            while True:
                # Again after each answer: a stream that asks for more may have joined meanwhile, and counts on these.
                needs = Needs.of([group.selector for group in self.hub.groups])
                names = [name for name in needs.lookups(rows) if name not in looked_up]
                if not names:
                    break
                found = await retrying.records(names)
                if retrying.outdated:
                    return
                records.update(found)
                looked_up.update(names)
            facts = facts_of(decoded.rows, records, looked_up)
            if needs.results:
                await self._decide_with_results(decoded, facts, records, retrying)
                if retrying.outdated:
                    return
            else:
                self._done(decoded, len(decoded.rows), facts)

    async def _decide_with_results(
        self, decoded: Decoded, facts: Sequence[Facts | None], records: Mapping[str, Record], retrying: Retrying
    ) -> None:
        """A piece at a time, bounded by the bytes of its results."""
        facts = list(facts)
        if not facts:
            # Rows that make no completion: this item is over, and no other is looked at here.
            self._done(decoded, 0, ())
        fetched: dict[str, Result] = {}
        while facts:
            wanted = admitted([group.selector for group in self.hub.groups], decoded.payloads, facts)
            sizes = stored_sizes(decoded.payloads, wanted, records)
            count = retrying.budget.fit(sizes)
            names = [name for name, size in zip(_names(decoded), sizes[:count], strict=False) if size is not None]
            names = [name for name in dict.fromkeys(names) if name not in fetched]
            if names:
                found = await retrying.results(names)
                if retrying.outdated:
                    return
                fetched.update(found or {})
                if found is not None:
                    fetched.update({name: Result(None, None) for name in names if name not in found})
                # Who joined meanwhile may want more of them; and after a failure, fewer are asked for.
                continue
            dispute(decoded.payloads[:count], facts, fetched)
            data = {name: result.data for name, result in fetched.items()}
            decoded = self._done(decoded, count, facts[:count], data)
            facts = facts[count:]
            fetched = {name: fetched[name] for name in _names(decoded) if name in fetched}

    def _done(
        self,
        decoded: Decoded,
        count: int,
        facts: Sequence[Facts | None],
        results: Mapping[str, bytes | None] | None = None,
    ) -> Decoded:
        """The first so many of these, which are at the head of the queue, are decided. Returns the others."""
        beneath = self._queue.head.beneath
        ids, done, rest = self._queue.pop_rows(decoded, count)
        self._hand_out(ids, done, facts, results, beneath=beneath)
        return rest


def _names(decoded: Decoded) -> list[str]:
    return [payload.execution_id for payload in decoded.payloads]
