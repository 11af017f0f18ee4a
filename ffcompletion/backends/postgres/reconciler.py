"""Looks for what ended without a row in the outbox, now and then, and hands it to every open stream, once.

A look reads the terminal records that ended since the last one, with an overlap for clocks that lie apart, through the
engine's own index: a few partitions at a time, and with many records only those that somebody has written to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast, final

import psycopg

from ffcompletion.backends.postgres.changes import Plan
from ffcompletion.backends.postgres.connection import Connection, deadline, end_task
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.lookups import Lookups, Result, fetch_rows
from ffcompletion.backends.postgres.planning import Planning
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import SERVER_MS, Queries
from ffcompletion.backends.postgres.results import Budget, admitted, stored_sizes
from ffcompletion.backends.postgres.rows import with_results
from ffcompletion.backends.postgres.silent import (
    SLACK_MS,
    Backlog,
    End,
    EndRow,
    Receiver,
    Silent,
    end_of,
    facts_of,
    payload_of,
)
from ffcompletion.backends.postgres.silent_queries import SilentQueries
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.buffer import sizes_of
from ffcompletion.delivery.hub import Group
from ffcompletion.foreign.logs import logger

__all__ = ["Reconciler"]

_log: Final = logger("ffcompletion.postgres")

# How far the clocks of those that write the times may lie apart.
_OVERLAP_MS: Final = 60_000
# How soon streams that could not take all of it are looked after again.
_AGAIN_S: Final = 0.1
# A stream that resumes reads its stored rows first, on the connection that has just been asked about its position: a
# fresh one takes 0.1 s to get to know 256 partitions.
_ROWS_FIRST_S: Final = 0.2


@final
class Reconciler:
    """Owns the looking. ``found``: how many ends it has met."""

    def __init__(self, queries: Queries, receivers: Callable[[], Iterable[Receiver]], interval_s: float) -> None:
        self._queries = queries
        self._silent_queries = SilentQueries(queries)
        self._receivers = receivers
        self._interval_s = interval_s
        self._silent = Silent(_OVERLAP_MS)
        self._planning = Planning(queries, self._silent_queries, interval_s)
        self._budget = Budget()
        self._conn: Connection | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._requested: asyncio.TimerHandle | None = None
        # The server's time, and when that was by our own clock.
        self._server_ms = (0, 0.0)
        self.found: int = 0

    @property
    def now_ms(self) -> int:
        """The server's time, by and large."""
        ms, at = self._server_ms
        return ms + round((time.monotonic() - at) * 1000)

    def begin(self, server_ms: int) -> None:
        """Before the first stream is open: what ends from now on, by the server's clock, is news."""
        self._server_ms = (server_ms, time.monotonic())
        self._silent.start_anew(server_ms)

    def request(self) -> None:
        """A stream has a backlog, to be looked after in a moment."""
        if self._requested is None:
            self._requested = asyncio.get_running_loop().call_later(_ROWS_FIRST_S, self._wake.set)

    async def stop(self, task: asyncio.Task[None], seconds: float) -> None:
        """End ``run``, which is this task, within so many seconds."""
        self._stopping = True
        self._forget_request()
        self._wake.set()
        await end_task(task, self._conn, seconds)

    async def run(self, pool: Pool, lookups: Callable[[], Lookups], seconds: float) -> None:
        """Until stopped. Each question is to be answered within so many seconds."""
        failed = False
        # Not at once: what a look is for has not had the time to happen, and streams are being opened.
        look_at = time.monotonic() + self._interval_s
        while not self._stopping:
            due = time.monotonic() >= look_at
            try:
                wanted = due or any(receiver.room.items for receiver in self._behind())
                if wanted and not await self._turn(pool, lookups(), seconds, look=due):
                    return
                failed = False
            except Exception as exc:  # noqa: BLE001  # whatever it is, the next look reads what this one did not
                if not failed and not self._stopping:
                    _log.warning("looking for what ended without a row failed (%s); trying again", type(exc).__name__)
                if not isinstance(exc, psycopg.Error | OSError) and not self._stopping:
                    _log.exception("an error of our own")
                failed = True
                self._planning.forget()
            if due:
                look_at = time.monotonic() + self._planning.changes.every_s
            wait_s = look_at - time.monotonic()
            await self._sleep(wait_s if failed or not self._behind() else min(wait_s, _AGAIN_S))

    async def _turn(self, pool: Pool, lookups: Lookups, seconds: float, *, look: bool) -> bool:
        """Look, and serve those that are behind. False: there is nothing to look for on this server."""
        async with pool.connection(timeout=seconds) as conn:
            self._conn = conn
            try:
                with deadline(conn, seconds):
                    plan = await self._planning.plan(conn)
                if plan is None:
                    return False
                if look:
                    await self._look(conn, lookups, plan, seconds)
                await self._catch_up(conn, lookups, plan, seconds)
            finally:
                self._conn = None
        return True

    async def _sleep(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()
        self._forget_request()

    def _forget_request(self) -> None:
        if self._requested is not None:
            self._requested.cancel()
            self._requested = None

    async def _ask_time(self, conn: Connection) -> int:
        sent = time.monotonic()
        ((ms,),) = cast("list[tuple[int]]", await (await conn.execute(SERVER_MS, prepare=False)).fetchall())
        self._server_ms = (ms, sent)
        return ms

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, conn: Connection, lookups: Lookups, plan: Plan, seconds: float) -> None:
        asked_at, silent, changes = time.monotonic(), self._silent, self._planning.changes
        with deadline(conn, seconds):
            keys = await self._planning.keys(conn, plan, asked_at)
            if plan.keys and not keys:
                return
            silent.begin(await self._ask_time(conn))
        started = time.monotonic()
        for chunk in plan.pieces(keys, changes.together(len(keys))):
            since_ms = [silent.since_ms(key) for key in chunk or (None,)]
            with deadline(conn, seconds):
                ends = await self._read(conn, lookups, plan, chunk, since_ms)
            candidates = silent.candidates(ends)
            try:
                await self._hand_out(conn, lookups, candidates, seconds, list(self._receivers()))
            except BaseException:
                # Who has them already is not given them again.
                silent.forget(candidates)
                raise
            self.found += len(candidates)
            silent.looked_at(chunk)
            changes.looked_at(chunk, asked_at)
        silent.end()
        if len(keys) == len(plan.keys):
            changes.looked_at_all(asked_at, time.monotonic() - started)

    async def _catch_up(self, conn: Connection, lookups: Lookups, plan: Plan, seconds: float) -> None:
        """On behalf of streams that were resumed, or could not take what was found: as much as they can take now."""
        chunks = plan.pieces(plan.keys)
        for receiver in self._behind():
            backlog = receiver.backlog
            while backlog is not None and receiver.room.items and backlog.done < len(chunks):
                with deadline(conn, seconds):
                    chunk = chunks[backlog.done]
                    ends = await self._read(conn, lookups, plan, chunk, [backlog.since_ms] * max(1, len(chunk)))
                ends.sort(key=lambda end: end.at_ms)
                # What is given twice is left out; so a piece that is not taken whole is read again.
                receiver.backlog = None
                try:
                    whole = await self._hand_out(conn, lookups, ends, seconds, [receiver])
                finally:
                    receiver.backlog = backlog
                if not whole:
                    break
                backlog.done += 1
            if backlog is not None and backlog.done == len(chunks):
                receiver.backlog = None

    def _behind(self) -> list[Receiver]:
        return [receiver for receiver in self._receivers() if receiver.backlog is not None and not receiver.closed]

    async def _read(
        self, conn: Connection, lookups: Lookups, plan: Plan, keys: Sequence[int], since_ms: Sequence[int]
    ) -> list[End]:
        """Of these partitions (none: of the table) what ended since these times."""
        query = self._silent_queries.silent(lanes=plan.lanes is not None, keys=bool(plan.keys))
        values: list[object] = [list(keys), list(since_ms)] if plan.keys else []
        if plan.lanes is not None:
            values.append(plan.lanes)
        if not plan.keys:
            values.extend(since_ms)
        rows, unreadable = await fetch_rows(
            conn,
            query,
            # What is to end in the future would be read in each look until then.
            [*values, self.now_ms + _OVERLAP_MS, SLACK_MS],
            prepare=lookups.prepare,
            tuned_already=lookups.tuned,
        )
        return [end_of(cast("EndRow", row), readable=at not in unreadable) for at, row in enumerate(rows)]

    async def _hand_out(
        self, conn: Connection, lookups: Lookups, ends: Sequence[End], seconds: float, receivers: Sequence[Receiver]
    ) -> bool:
        """To each of these. False: somebody could not take all that was for it; the rest is its backlog."""
        payloads = {end: payload_of(end) for end in ends}
        whole = True
        # Who wants results, which may take long, comes last: nobody else waits for them.
        for receiver in sorted(receivers, key=lambda receiver: receiver.selector.results):
            mine = list(receiver.unseen(ends))
            while mine and (most := receiver.room.items) and not receiver.closed:
                given = await self._give(conn, lookups, mine[:most], payloads, seconds, receiver)
                if not given:
                    break
                mine = mine[given:]
            if mine and not receiver.closed:
                # Bounded: it gets them later, at its own pace.
                whole = False
                oldest, backlog = mine[0].at_ms, receiver.backlog
                if backlog is None or oldest < backlog.since_ms or backlog.done:
                    receiver.backlog = Backlog(oldest if backlog is None else min(oldest, backlog.since_ms))
        return whole

    async def _give(
        self,
        conn: Connection,
        lookups: Lookups,
        ends: Sequence[End],
        payloads: dict[End, CompletionPayload],
        seconds: float,
        receiver: Receiver,
    ) -> int:
        """As many of them as one question about results can be put for, and there is room for. Returns how many."""
        group = Group(receiver.selector)
        mine = [payloads[end] for end in ends]
        if not receiver.selector.results:
            chosen = group.select(mine, [facts_of(end) for end in ends])
            receiver.found(ends, chosen, (group.filtered, group.undecided))
            return len(ends)
        records = {end.name: Record(end.namespace, end.tags, end.size) for end in ends}
        facts = [facts_of(end) for end in ends]
        sizes = stored_sizes(mine, admitted([receiver.selector], mine, facts), records)
        count = receiver.room.fit(sizes[: self._budget.fit(sizes)])
        names = [end.name for end, size in zip(ends[:count], sizes[:count], strict=True) if size is not None]
        found: Mapping[str, Result] = {}
        try:
            if names:
                found = await lookups.results(conn, names, seconds * self._budget.patience)
        except (psycopg.Error, OSError):
            self._budget.shrink(len(names))
            raise
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
