"""Looks for what ended without a row in the outbox, now and then, and hands it to every open stream, once.

A look reads the terminal records that ended since the last one, with an overlap for clocks that lie apart, through the
engine's own index: a page at a time, and with many records only the partitions that somebody has written to. What a stream
cannot take at once it is given later, at its own pace; who wants results is given them by a task of its own, because they
may take long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

import psycopg

from ffcompletion.backends.postgres.changes import Plan
from ffcompletion.backends.postgres.connection import Connection, deadline, end_task
from ffcompletion.backends.postgres.lookups import Lookups
from ffcompletion.backends.postgres.planning import Planning
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.silent import End, Receiver, Silent
from ffcompletion.backends.postgres.silent_queries import SilentQueries
from ffcompletion.backends.postgres.silent_reading import OVERLAP_MS, SilentReading, give
from ffcompletion.backends.postgres.unread import Unread
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Reconciler"]

_log: Final = logger("ffcompletion.postgres")

# Pages in one turn, of a look and for streams that are behind, and for how long: then the others have theirs. A page may
# take a second where somebody has filled a partition, and what ended elsewhere meanwhile is not to wait for many of them.
_PAGES: Final = 16
_TURN_S: Final = 0.5
# How soon what a turn has left is gone on with, and streams that could not take all of it are looked after.
_AGAIN_S: Final = 0.1
# A stream that resumes reads its stored rows first, on the connection that has just been asked about its position: a
# fresh one takes 0.1 s to get to know 256 partitions.
_ROWS_FIRST_S: Final = 0.2
# After a fault.
_RETRY_S: Final = 1.0


@final
class Reconciler:
    """Owns the looking. ``found``: how many ends it has met."""

    def __init__(self, queries: Queries, receivers: Callable[[], Iterable[Receiver]], interval_s: float) -> None:
        silent_queries = SilentQueries(queries)
        self._receivers = receivers
        self._interval_s = interval_s
        self._silent = Silent(OVERLAP_MS)
        self._planning = Planning(queries, silent_queries, interval_s)
        self._reading = SilentReading(queries, silent_queries)
        # What the looks have still to read; when each partition's began, by the server's clock and by ours; and those that
        # a later look asks for as well.
        self._unread = Unread()
        self._began: dict[int | None, tuple[int, float]] = {}
        self._wanted_again: set[int | None] = set()
        # Since when everything has been looked at, and for how long, until that is done.
        self._whole: tuple[float, float] | None = None
        # How many times a stream that was behind has had its turn.
        self._served = 0
        self._conn: Connection | None = None
        self._recovering: dict[Receiver, asyncio.Task[None]] = {}
        self._recovering_on: dict[Receiver, Connection] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._failed = False
        self._retry_at = 0.0
        self._results_log = RateLog(_log)
        self._requested: asyncio.TimerHandle | None = None
        self.found: int = 0

    @property
    def now_ms(self) -> int:
        """The server's time, by and large."""
        return self._reading.now_ms

    def begin(self, server_ms: int) -> None:
        """Before the first stream is open: what ends from now on, by the server's clock, is news."""
        self._reading.began(server_ms)
        self._silent.start_anew(server_ms)

    def request(self) -> None:
        """A stream has a backlog, to be looked after in a moment."""
        if self._requested is None:
            self._requested = asyncio.get_running_loop().call_later(_ROWS_FIRST_S, self._wake.set)

    async def aclose(self, task: asyncio.Task[None], seconds: float) -> None:
        """End ``run``, which is this task, within so many seconds."""
        self._stopping = True
        self._forget_request()
        self._wake.set()
        recovering = [(each, self._recovering_on.get(receiver)) for receiver, each in self._recovering.items()]
        await asyncio.gather(*(end_task(each, conn, seconds) for each, conn in [(task, self._conn), *recovering]))

    async def run(self, pool: Pool, lookups: Callable[[], Lookups], seconds: float) -> None:
        """Until stopped. Each question is to be answered within so many seconds."""
        # Not at once: what a look is for has not had the time to happen, and streams are being opened.
        look_at = time.monotonic() + self._interval_s
        try:
            while not self._stopping:
                due = time.monotonic() >= look_at
                try:
                    if due or self._wanted():
                        if not await self._turn(pool, lookups(), seconds, look=due):
                            return
                        self._failed = False
                except Exception as exc:  # noqa: BLE001  # whatever it is, the next look reads what this one did not
                    self._trouble(exc)
                    self._planning.forget()
                if due:
                    look_at = time.monotonic() + self._planning.changes.every_s
                self._recover(pool, lookups, seconds)
                wait_s = look_at - time.monotonic()
                await self._sleep(min(wait_s, _AGAIN_S) if self._unread or self._behind() else wait_s)
        finally:
            for each in self._recovering.values():
                each.cancel()

    def _wanted(self) -> bool:
        """Whether something is to be read before the next look is due."""
        if time.monotonic() < self._retry_at:
            return False
        return bool(self._unread) or any(receiver.room.items for receiver in self._behind(results=False))

    def _trouble(self, exc: Exception) -> None:
        if self._stopping:
            return
        if not self._failed:
            _log.warning("looking for what ended without a row failed (%s); trying again", type(exc).__name__)
        if not isinstance(exc, psycopg.Error | OSError):
            _log.exception("an error of our own")
        self._failed, self._retry_at = True, time.monotonic() + _RETRY_S

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
                        await self._begin_look(conn, plan)
                    if not self._unread and not self._behind(results=False):
                        return True
                    plan = await self._planning.with_lanes(conn, plan)
                    await self._reading.query_numbering(conn)
                await self._read_on(conn, lookups, plan, seconds)
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

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin_look(self, conn: Connection, plan: Plan) -> None:
        asked_at = time.monotonic()
        keys = await self._planning.keys(conn, plan, asked_at)
        if plan.keys and not keys:
            return
        self._silent.begin(await self._reading.query_time(conn))
        for key in keys or (None,):
            if key in self._unread:
                self._wanted_again.add(key)
            else:
                self._unread.add(key, self._silent.since_ms(key))
                self._began[key] = (self._silent.began_ms, asked_at)

    async def _read_on(self, conn: Connection, lookups: Lookups, plan: Plan, seconds: float) -> None:
        """Some pages of what the looks have still to read."""
        silent, changes, unread = self._silent, self._planning.changes, self._unread
        started, count = time.monotonic(), len(unread)
        together = changes.together(count)
        if count == len(plan.keys):
            self._whole = (started, 0.0)
        for _ in range(max(_PAGES, -(-count // together))):
            if not (piece := unread.piece(together)):
                break
            with deadline(conn, seconds):
                ends, last = await self._reading.read(conn, lookups, plan, piece)
            candidates = silent.candidates(ends)
            try:
                self._hand_out(candidates, plan)
            except BaseException:
                # Who has them already is not given them again.
                silent.forget(candidates)
                raise
            self.found += len(candidates)
            for key in unread.read(piece, last):
                self._looked_at(key)
            if time.monotonic() - started > _TURN_S:
                break
        silent.end()
        if self._whole is not None:
            began, took_s = self._whole[0], self._whole[1] + time.monotonic() - started
            self._whole = (began, took_s) if unread else None
            if not unread:
                changes.looked_at_all(began, took_s)

    def _looked_at(self, key: int | None) -> None:
        began_ms, asked_at = self._began.pop(key)
        self._silent.looked_at(key, began_ms)
        if key in self._wanted_again:
            # It has been written to since this look began.
            self._wanted_again.discard(key)
        elif key is not None:
            self._planning.changes.looked_at((key,), asked_at)

    def _hand_out(self, ends: Sequence[End], plan: Plan) -> None:
        """To every stream, what it can take now; the rest, and all that goes with a result, is its backlog."""
        for receiver in self._receivers():
            mine = receiver.unseen(ends)
            most = 0 if receiver.selector.results else receiver.room.items
            if most and mine:
                give(mine[:most], receiver)
            if not receiver.closed:
                receiver.backlog.add(mine[most:], plan.keys)

    # ── streams that are behind ──────────────────────────────────────────────────────────────────────────────────

    def _behind(self, *, results: bool | None = None) -> list[Receiver]:
        return [
            receiver
            for receiver in self._receivers()
            if receiver.backlog and not receiver.closed and results in (None, receiver.selector.results)
        ]

    async def _catch_up(self, conn: Connection, lookups: Lookups, plan: Plan, seconds: float) -> None:
        """On behalf of streams that were resumed, or could not take what was found: in turn, a page each."""
        started = time.monotonic()
        for _ in range(_PAGES):
            gone_on, behind = False, self._behind(results=False)
            # Where the last turn ended: whoever comes first is not always the same.
            first = self._served % len(behind) if behind else 0
            for receiver in behind[first:] + behind[:first]:
                gone_on |= await self._reading.advance(conn, lookups, plan, seconds, receiver)
                self._served += 1
                if time.monotonic() - started > _TURN_S:
                    return
            if not gone_on:
                break

    def _recover(self, pool: Pool, lookups: Callable[[], Lookups], seconds: float) -> None:
        """Who wants results has a task of its own while it is behind and has room."""
        for receiver in self._behind(results=True):
            if receiver.room.items and receiver not in self._recovering and not self._stopping:
                self._recovering[receiver] = asyncio.get_running_loop().create_task(
                    self._recover_one(pool, lookups, seconds, receiver), name="ffcompletion-postgres-ends"
                )

    async def _recover_one(
        self, pool: Pool, lookups: Callable[[], Lookups], seconds: float, receiver: Receiver
    ) -> None:
        try:
            async with pool.connection(timeout=seconds, results=True) as conn:
                self._recovering_on[receiver] = conn
                with deadline(conn, seconds):
                    plan = await self._planning.plan(conn)
                    if plan is None:
                        return
                    plan = await self._planning.with_lanes(conn, plan)
                    await self._reading.query_numbering(conn)
                while await self._reading.advance(conn, lookups(), plan, seconds, receiver) and not self._stopping:
                    pass
        except Exception as exc:  # noqa: BLE001  # whatever it is, the next turn reads what this one did not
            if not self._stopping:
                self._results_log.warning(
                    f"looking for what ended without a row failed ({type(exc).__name__}); trying again"
                )
            await asyncio.sleep(_RETRY_S)
        finally:
            self._recovering_on.pop(receiver, None)
            self._recovering.pop(receiver, None)
