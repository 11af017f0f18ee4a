"""Hands rows to the streams that need records looked up (a filter, a result), behind the reader that waits for none.

What the reader hands out queues here, in order. One task takes what waits, asks for the records that the rows do not
decide without, and hands it on. Without an answer nothing is let through and nothing is dropped: it is asked again.
This has a place of its own, behind the reader's: its streams join, fall behind, and resume by that place.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

import msgspec

from ffcompletion.backends.postgres.connection import Connection, end_task
from ffcompletion.backends.postgres.facts import Needs, Record, facts_of
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.outbox import Stream
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.results import Budget, admitted, dispute, stored_sizes
from ffcompletion.backends.postgres.retrying import Retrying
from ffcompletion.backends.postgres.rows import Decoded, with_results
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.delivery.batch import Batch, Facts
from ffcompletion.delivery.hub import Hub
from ffcompletion.foreign.logs import logger

__all__ = ["Filtering"]

_log: Final = logger("ffcompletion.postgres")

# Rows looked up in one question, unless one read brought more.
_TOGETHER: Final = 2_000
# Rows that may wait for answers: some 25 MB. Beyond that the streams read what is stored, at their own pace.
_WAITING: Final = 50_000
_NONE: Final = Decoded((), (), 0)


@final
class _Item(msgspec.Struct, frozen=True):
    """What the reader did: rows that it has read, or gaps that it has given up."""

    ids: Sequence[int] = ()
    """The ids that were new."""
    decoded: Decoded = _NONE
    """The completions among them."""
    gaps: Sequence[tuple[int, int]] = ()


@final
class Filtering:
    """Where the streams that need lookups stand; to them it is what the reader is to the others."""

    def __init__(self, skipped: Callable[[int], None]) -> None:
        self.hub: Hub[Stream] = Hub()
        self.tracker: GapTracker = GapTracker(0)
        self.skipped: Callable[[int], None] = skipped
        self.waiting: int = 0
        """Rows that wait for their records."""
        self._queue: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self.history: int = 0
        """Changes when what waits is no longer what it was: it is to be looked at anew."""
        self.budget: Budget = Budget()
        self._conn: Connection | None = None
        self._stopping = False

    # ── the reader's side ────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, tracker: GapTracker) -> None:
        """Stand where the reader begins."""
        self._queue.clear()
        self.waiting = 0
        self.tracker = tracker.copy()
        # An event belongs to the loop that it is first waited on.
        self._arrived = asyncio.Event()
        self._stopping = False

    def admit(self, ids: Sequence[int], decoded: Decoded) -> None:
        """The reader hands out these rows."""
        if not self._queue and self._decided(decoded):
            self._hand_out(ids, decoded, facts_of(decoded.rows, {}, frozenset()))
            return
        self._queue.append(_Item(ids, decoded))
        self.waiting += len(ids)
        if self.waiting > _WAITING:
            self._fall_behind()
        self._arrived.set()

    def retire(self, gaps: Sequence[tuple[int, int]]) -> None:
        """The reader has given up these gaps."""
        if self._queue:
            self._queue.append(_Item(gaps=gaps))
        else:
            self._give_up(gaps)

    def rewind(self, high: int) -> None:
        """The server's history was replaced by one that knows ids up to ``high`` only."""
        self.history += 1
        kept = deque[_Item]()
        for item in self._queue:
            ids = [event_id for event_id in item.ids if event_id <= high]
            rows = [row for row in item.decoded.rows if row[0] <= high]
            gaps = [gap for gap in item.gaps if gap[1] <= high]
            if ids or gaps:
                kept.append(_Item(ids, Decoded(rows, item.decoded.payloads[: len(rows)], 0), gaps))
        self._queue = kept
        self.waiting = sum(len(item.ids) for item in kept)
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
            self.tracker.give_up(item.gaps)
        self._queue.clear()
        self.waiting = 0

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
    ) -> None:
        self.tracker.admit(ids, time.monotonic())
        if self.hub.groups:
            rich = None if results is None else with_results(decoded.payloads, results)
            self.hub.publish(Batch(decoded.payloads, rich, facts, StreamCursor.outbox(self.tracker.watermark), ids))

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
                item = self._queue[0]
                if item.gaps:
                    self._queue.popleft()
                    self._give_up(item.gaps)
                    continue
                try:
                    await self._decide(self._next_rows(), Retrying(self, pool, lookups, seconds))
                except Exception:  # noqa: BLE001  # it is logged, and nothing is lost by it
                    _log.exception("an error of our own; filtered streams go on from what is stored")
                    self._fall_behind()

    def _next_rows(self) -> list[_Item]:
        # What is looked up together: from the head of the queue, without passing a retirement.
        taken: list[_Item] = []
        count = 0
        for item in self._queue:
            if item.gaps or (taken and count + len(item.ids) > _TOGETHER):
                break
            taken.append(item)
            count += len(item.ids)
        return taken

    async def _decide(self, items: Sequence[_Item], retrying: Retrying) -> None:
        rows = [row for item in items for row in item.decoded.rows]
        records: dict[str, Record] = {}
        looked_up: set[str] = set()
        for _ in items:
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
            decoded = self._queue[0].decoded
            facts = facts_of(decoded.rows, records, looked_up)
            if needs.results:
                await self._decide_with_results(facts, records, retrying)
                if retrying.outdated:
                    return
            else:
                self._done(len(decoded.rows), facts)

    async def _decide_with_results(
        self, facts: Sequence[Facts | None], records: Mapping[str, Record], retrying: Retrying
    ) -> None:
        """A piece at a time, bounded by the bytes of its results."""
        facts = list(facts)
        if not facts:
            # Rows that make no completion: this item is over, and no other is looked at here.
            self._done(0, ())
        fetched: dict[str, Result] = {}
        while facts:
            decoded = self._queue[0].decoded
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
            self._done(count, facts[:count], data)
            facts = facts[count:]
            fetched = {name: fetched[name] for name in _names(decoded)[count:] if name in fetched}

    def _done(
        self, count: int, facts: Sequence[Facts | None], results: Mapping[str, bytes | None] | None = None
    ) -> None:
        """The first so many rows of what is at the head of the queue are decided."""
        item = self._queue[0]
        rows, payloads = item.decoded.rows, item.decoded.payloads
        whole = count == len(rows)
        upto = len(item.ids) if whole else bisect_right(item.ids, rows[count - 1][0])
        self._hand_out(item.ids[:upto], Decoded(rows[:count], payloads[:count], 0), facts, results)
        self.waiting -= upto
        if whole:
            self._queue.popleft()
        else:
            self._queue[0] = _Item(item.ids[upto:], Decoded(rows[count:], payloads[count:], 0))


def _names(decoded: Decoded) -> list[str]:
    return [payload.execution_id for payload in decoded.payloads]
