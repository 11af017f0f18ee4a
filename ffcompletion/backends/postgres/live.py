"""The live reader: one task per backend that turns wake-ups into batches for every stream.

Drain all notifications, then one query; hand out what is visible at once; look after gaps beside that; keep the
connection honest with an echo; poll as a safety net. Reconnects for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Final, final

import psycopg

from ffcompletion.backends.postgres.connection import Target, translated
from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.rows import Row, decode
from ffcompletion.backends.postgres.session import Pool, Session
from ffcompletion.backends.postgres.spans import merged, missing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import EngineError, Transport, Unavailable
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.hub import Hub
from ffcompletion.delivery.link import Link
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.delivery.watchdog import Watchdog

__all__ = ["EVERYTHING", "PAGE", "Live", "log"]

log: Final = logging.getLogger("ffcompletion.postgres")

EVERYTHING: Final = (1 << 63) - 1
# Rows per read: decoding 2,000 takes about 4 ms, the longest that the loop is held.
PAGE: Final = 2_000
# How far below the newest id the ordinary read looks again for rows that committed late. Ids of transactions that
# run side by side lie close together; older gaps are looked for when they are announced, or when their owners end.
_REREAD: Final = 512
# Ids below the start that are examined for transactions already under way.
_LOOK_BACK: Final = 100_000
# Ripe gaps this close are looked for in one read: fewer reads, few rows more.
_MERGE_WITHIN: Final = 64
_SETTLE_FIRST_S: Final = 0.02
_SETTLE_LAST_S: Final = 1.0
_ECHO_EVERY_S: Final = 3.0
_ECHO_DEADLINE_S: Final = 1.5
_STOP_S: Final = 0.5
# How long a read may take before the connection counts as dead: first this, because it usually takes a millisecond,
# then twice as long each time, up to `read_timeout`, because a server may really be that slow.
_PATIENCE_S: Final = 3.0


@final
class Live:
    """Owns the session, the gap tracker and the reader task."""

    def __init__(
        self, target: Target, queries: Queries, hub: Hub, link: Link, *, poll_interval_s: float, read_timeout_s: float
    ) -> None:
        self._target = target
        self._queries = queries
        self._hub = hub
        self._link = link
        self._poll_s = poll_interval_s
        self._read_timeout_s = read_timeout_s
        self._patience_s = min(_PATIENCE_S, read_timeout_s)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._announced: list[str] = []
        self._changed = Signal()
        self._last_error: BaseException | None = None
        self._malformed_log = RateLog(log)
        self._settle_at = 0.0
        self._settle_every_s = _SETTLE_FIRST_S
        self.watchdog = Watchdog(0.0, interval_s=_ECHO_EVERY_S, deadline_s=_ECHO_DEADLINE_S)
        self.tracker = GapTracker(0)
        # Ids of the rows that are being handed out, for a stream that cannot take them.
        self.in_hand: Sequence[int] = ()
        self.received = 0
        self.malformed = 0

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────

    async def start(self, pool: Pool) -> None:
        """Connect, find the position to start from, and begin to read. Raises driver errors and ``EngineError``."""
        self._stopping = False
        self._pool = pool
        self._link.connecting()
        try:
            session = await self._open()
            await self._find_start(session)
            heard = await session.first_echo(_ECHO_DEADLINE_S)
            if not heard and not self._poll_s:
                raise Unavailable("subscribe", f"{session.deaf_because}; and polling is turned off (poll_interval=0)")
        except BaseException:
            await self._close_session()
            self._link.idle()
            raise
        self._arrive(session)
        self._task = asyncio.create_task(self._run(session), name="ffcompletion-postgres-reader")

    async def stop(self) -> None:
        """Release everything on the server. Within about a second, also when it is mute."""
        self._stopping = True
        self._wake.set()
        self._changed.wake()
        task, self._task = self._task, None
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=_STOP_S)
            if not done:
                if self._session is not None:
                    self._session.shut_down()
                task.cancel()
                await asyncio.wait({task}, timeout=_STOP_S)
        await self._close_session()
        self._announced.clear()

    async def flowing(self, seconds: float) -> None:
        """Wait until completions flow. Raises ``Transport`` with the last fault as its cause after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not self._link.flowing:
                    await self._changed.wait()
        except TimeoutError:
            raise Transport(self._target.shown, "the connection is being mended; try again") from self._last_error

    @property
    def session(self) -> Session | None:
        """The session in use, if connected."""
        return self._session

    @property
    def held_since_s(self) -> float:
        """Age of the oldest open gap, in seconds."""
        gaps = self.tracker.gaps
        return time.monotonic() - min(gap.since for gap in gaps) if gaps else 0.0

    async def _open(self) -> Session:
        session = self._session = Session(self._target, self._pool, self._queries, self._patience_s)
        await session.open(self._on_announce, self._on_echo, self._wake.set)
        self._announced.clear()
        return session

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _find_start(self, session: Session) -> None:
        # LISTEN is live by now: whatever commits after this read is either announced or visible to the next one.
        now = time.monotonic()
        rows = await session.fetch(self._queries.high())
        self.tracker = GapTracker(rows[0][0] if rows else 0)
        start = self.tracker.start
        if start and (session.in_recovery or await session.owners()):
            # Somebody is writing: ids just below the start may belong to them.
            floor = max(0, start - _LOOK_BACK)
            visible = await session.fetch(self._queries.ids(), (floor, start))
            self.tracker.assume(missing([floor, *(row[0] for row in visible)]), now)
        self._settle_at = now

    def _arrive(self, session: Session) -> None:
        self.watchdog.reset(time.monotonic())
        if session.deaf_because:
            self._link.polling(f"{session.deaf_because}; polling every {self._poll_s:g} s")
        else:
            self._link.live()
        self._changed.wake()

    # ── wake-ups, called by the listener ─────────────────────────────────────────────────────────────────────────

    def _on_announce(self, payload: str) -> None:
        self._announced.append(payload)
        self._wake.set()

    def _on_echo(self, nonce: str) -> None:
        self.watchdog.heard(nonce, time.monotonic())

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, session: Session | None) -> None:
        while not self._stopping:
            try:
                if session is None:
                    session = await self._open()
                    # Names of transactions mean nothing on a server that was restarted or replaced.
                    self.tracker.forget_owners()
                    if not await self._first_echo(session):
                        return
                    self._arrive(session)
                await self._read(session)
            except (psycopg.Error, OSError, EngineError) as exc:
                self._last_error = exc
                self._patience_s = min(self._patience_s * 2, self._read_timeout_s)
                session = None
                why = translated(exc, self._target.shown, "reading") if isinstance(exc, psycopg.Error) else exc
                delay = self._link.broken(str(why) or type(exc).__name__)
                await self._close_session()
                if not self._stopping:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wait_for_stop(), delay)

    async def _wait_for_stop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            await self._wake.wait()

    async def _first_echo(self, session: Session) -> bool:
        await session.first_echo(_ECHO_DEADLINE_S)
        return not self._stopping

    async def _read(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            self._wake.clear()
            await self._drain(session)
            self._patience_s = min(_PATIENCE_S, self._read_timeout_s)
            await self._settle(session)
            now = time.monotonic()
            await self._check_echo(session, now)
            look_at = min(now + self._poll_s, self.watchdog.next_at) if self._poll_s else self.watchdog.next_at
            if self.tracker.gaps:
                look_at = min(look_at, self._settle_at)
            timer = loop.call_later(max(0.0, look_at - now), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            if session.listener is not None and session.listener.error is not None:
                raise session.listener.error

    async def _drain(self, session: Session) -> None:
        tracker = self.tracker
        while not self._stopping:
            announced, self._announced = self._announced, []
            after = max(tracker.watermark, tracker.high - _REREAD)
            facts, results = bool(self._hub.filters), self._hub.wants_results
            rows = await session.fetch(
                self._queries.page(facts=facts, results=results), (after, EVERYTHING, PAGE), read=True
            )
            self._take(rows, facts=facts, results=results)
            late = tracker.may_be_late(_ids(announced)) if announced else []
            if late:
                picked = self._queries.picked(facts=facts, results=results)
                self._take(await session.fetch(picked, (late,), read=True), facts=facts, results=results)
            if len(rows) < PAGE and not self._announced:
                return

    def _take(self, rows: Sequence[Row], *, facts: bool, results: bool) -> None:
        if not rows:
            return
        tracker = self.tracker
        gaps = len(tracker.gaps)
        ids = [row[0] for row in rows]
        fresh = tracker.admit(ids, time.monotonic())
        if len(tracker.gaps) > gaps:
            self._settle_every_s = _SETTLE_FIRST_S
            self._settle_at = min(self._settle_at, time.monotonic() + _SETTLE_FIRST_S)
        if not fresh:
            return
        if len(fresh) < len(rows):
            rows = [rows[index] for index in fresh]
            ids = [row[0] for row in rows]
        batch = decode(rows, tracker.watermark, facts=facts, results=results)
        self.received += len(rows)
        if batch.malformed:
            self.malformed += batch.malformed
            self._malformed_log.warning("the outbox holds a row that makes no valid completion; skipped")
        self.in_hand = ids
        self._hub.publish(batch.plain, batch.with_results, batch.facts, StreamCursor.outbox(tracker.watermark))

    # ── gaps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _settle(self, session: Session) -> None:
        tracker = self.tracker
        if not tracker.gaps or time.monotonic() < self._settle_at:
            return
        tracker.observe(await session.owners())
        spans = tracker.ripe
        facts, results = bool(self._hub.filters), self._hub.wants_results
        for low, high in merged(spans, _MERGE_WITHIN):
            after = low - 1
            while after < high:
                page = self._queries.page(facts=facts, results=results)
                rows = await session.fetch(page, (after, high, PAGE), read=True)
                self._take(rows, facts=facts, results=results)
                after = rows[-1][0] if len(rows) == PAGE else high
        tracker.retire(spans)
        if spans:
            # The watermark moved: streams learn of it with an empty batch.
            self._hub.publish((), cursor=StreamCursor.outbox(tracker.watermark))
            self._settle_every_s = _SETTLE_FIRST_S
        else:
            self._settle_every_s = min(_SETTLE_LAST_S, self._settle_every_s * 2)
        self._settle_at = time.monotonic() + self._settle_every_s

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _check_echo(self, session: Session, now: float) -> None:
        if self.watchdog.expired(now):
            if self._link.state is BackendState.LIVE:
                raise psycopg.OperationalError("the listener went silent: no echo")
            self.watchdog.reset(now)
        nonce = self.watchdog.due(now)
        if nonce is not None:
            if session.in_recovery and await session.promoted():
                raise psycopg.OperationalError("the replica was promoted")
            await session.echo(nonce)


def _ids(announced: Sequence[str]) -> list[int]:
    try:
        return [int(payload) for payload in announced]
    except ValueError:
        # Somebody else uses the channel too: a wake-up, and no more.
        return [int(payload) for payload in announced if payload.isascii() and payload.isdigit()]
