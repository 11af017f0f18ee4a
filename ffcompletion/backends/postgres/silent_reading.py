"""Reads ends without a row, a page at a time, and gives them to one stream; its results, if it wants them, as well."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, cast, final
from weakref import WeakKeyDictionary

import psycopg

from ffcompletion.backends.postgres.changes import Plan
from ffcompletion.backends.postgres.connection import Connection, deadline
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.fetching import fetch_rows
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.numbering import Numbering
from ffcompletion.backends.postgres.queries import SERVER_MS, Queries
from ffcompletion.backends.postgres.results import Budget, admitted, stored_sizes
from ffcompletion.backends.postgres.rows import with_results
from ffcompletion.backends.postgres.silent import SLACK_MS, End, EndRow, Receiver, end_of, facts_of, payload_of
from ffcompletion.backends.postgres.silent_queries import SilentQueries
from ffcompletion.backends.postgres.unread import Last, Mark, Pages
from ffcompletion.delivery.buffer import sizes_of
from ffcompletion.delivery.hub import Group

__all__ = ["OVERLAP_MS", "SilentReading", "give"]

# How far the clocks of those that write the times may lie apart.
OVERLAP_MS: Final = 60_000
# Partitions in one question on behalf of one stream.
_TOGETHER: Final = 64


@final
class SilentReading:
    """Puts the questions. Raises driver errors."""

    def __init__(self, queries: Queries, silent_queries: SilentQueries) -> None:
        self._silent_queries = silent_queries
        self._numbering = Numbering(queries)
        self._budgets = WeakKeyDictionary[Receiver, Budget]()
        # The server's time, and when that was by our own clock.
        self._server_ms = (0, 0.0)
        # The sequence that numbers the outbox, if one does.
        self._numbered_by: int | None = None
        self.pages: Pages = Pages()

    @property
    def now_ms(self) -> int:
        """The server's time, by and large."""
        ms, at = self._server_ms
        return ms + round((time.monotonic() - at) * 1000)

    def began(self, server_ms: int) -> None:
        """That is the server's time now."""
        self._server_ms = (server_ms, time.monotonic())

    async def query_time(self, conn: Connection) -> int:
        """The server's time."""
        sent = time.monotonic()
        ((ms,),) = cast("list[tuple[int]]", await (await conn.execute(SERVER_MS, prepare=False)).fetchall())
        self._server_ms = (ms, sent)
        return ms

    async def query_numbering(self, conn: Connection) -> None:
        """What numbers the outbox by now: before each turn of reading, because it may become a subscriber's, or another."""
        sequence = await (await conn.execute(*self._numbering.numbered_by(), prepare=False)).fetchone()
        self._numbered_by = None if sequence is None else sequence[0]

    async def read(
        self, conn: Connection, lookups: Lookups, plan: Plan, piece: Sequence[Mark]
    ) -> tuple[list[End], Last | None]:
        """A page of what ended in these partitions; and its last end, where there may be more."""
        query = self._silent_queries.silent(lanes=plan.lanes is not None, keys=bool(plan.keys))
        keys = [mark.partition if mark.key is None else mark.key for mark in piece]
        values: list[object] = [keys, [mark.since_ms for mark in piece], [mark.after for mark in piece]]
        if plan.lanes is not None:
            values.append(plan.lanes)
        limit = self.pages.rows
        try:
            found, unreadable = await fetch_rows(
                conn,
                query,
                # What is to end in the future would be read in each look until then.
                [*values, self.now_ms + OVERLAP_MS, SLACK_MS, self._numbered_by, limit, limit],
                prepare=lookups.prepare,
                tuned_already=lookups.tuned,
            )
        except (psycopg.Error, OSError):
            self.pages.failed()
            raise
        rows = cast("list[EndRow]", found)
        ends = [end_of(row, readable=at not in unreadable) for at, row in enumerate(rows)]
        if not rows:
            return ends, None
        whole = rows[0][-1]
        self.pages.came(len(rows), cut=len(rows) < whole)
        partition, bare, at_ms = rows[-1][0], rows[-1][1], rows[-1][5]
        return ends, None if len(rows) == whole < limit else (at_ms, partition, bare)

    async def advance(self, conn: Connection, lookups: Lookups, plan: Plan, seconds: float, receiver: Receiver) -> bool:
        """Read a page of what this stream is behind with, and give it as much as it can take. False: no more for now."""
        receiver.backlog.begin(plan.keys)
        unread = receiver.backlog.unread
        if not unread or not receiver.room.items or receiver.closed:
            return False
        piece = unread.piece(_TOGETHER)
        with deadline(conn, seconds):
            ends, last = await self.read(conn, lookups, plan, piece)
        # What is given twice is left out; so a page that is not taken whole is read again.
        mine = list(receiver.unseen(sorted(ends, key=lambda end: end.at_ms)))
        while mine:
            most = receiver.room.items
            given = (
                0 if not most or receiver.closed else await self._give(conn, lookups, mine[:most], seconds, receiver)
            )
            if not given:
                return False
            mine = mine[given:]
        unread.read(piece, last)
        return True

    async def _give(
        self, conn: Connection, lookups: Lookups, ends: Sequence[End], seconds: float, receiver: Receiver
    ) -> int:
        """As many of them as one question about results can be put for, and there is room for. Returns how many."""
        if not receiver.selector.results:
            give(ends, receiver)
            return len(ends)
        group, mine = Group(receiver.selector), [payload_of(end) for end in ends]
        budget = self._budgets.setdefault(receiver, Budget())
        records = {end.name: Record(end.namespace, end.tags, end.size) for end in ends}
        facts = [facts_of(end) for end in ends]
        sizes = stored_sizes(mine, admitted([receiver.selector], mine, facts), records)
        count = receiver.room.fit(sizes[: budget.fit(sizes)])
        names = [end.name for end, size in zip(ends[:count], sizes[:count], strict=True) if size is not None]
        found: Mapping[str, Result] = {}
        if names:
            started = time.monotonic()
            try:
                found = await lookups.results(conn, names, seconds * budget.patience)
            except (psycopg.Error, OSError):
                budget.shrink(len(names))
                raise
            budget.grow(time.monotonic() - started)
        for at, end in enumerate(ends[:count]):
            # Another run by now, or another's.
            if end.name in found and found[end.name].namespace != end.namespace:
                facts[at] = None
        rich = with_results(mine[:count], {name: result.data for name, result in found.items()})
        # While they were being read, something else may have come.
        count = receiver.room.fit(sizes_of(rich))
        rich = rich[:count]
        receiver.found(ends[:count], group.select(rich, facts[:count]), (group.filtered, group.undecided))
        return count


def give(ends: Sequence[End], receiver: Receiver) -> None:
    """All of these, to a stream that asks for no results."""
    group = Group(receiver.selector)
    chosen = group.select([payload_of(end) for end in ends], [facts_of(end) for end in ends])
    receiver.found(ends, chosen, (group.filtered, group.undecided))
