"""Reads what the index holds for those who missed it: for all streams in passes, and in turn for each that fell behind.

One task does it all, one thing at a time. A pass runs every interval, at the end of every interruption, and when more
has been announced than is worth remembering. A read that fails is tried again, with backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Final, Self, final

from glide import GlideError

from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.errors import is_refused, named, translated
from ffcompletion.backends.valkey.filtering import Filtering, needs_lookup
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.options import Settings
from ffcompletion.backends.valkey.reconciliation import Pace, Reconciliation
from ffcompletion.backends.valkey.recovering import Recovery, page_within_reach
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import Counters
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Reconciler"]

_log: Final = logger("ffcompletion.valkey")

# Announcements remembered from pass to pass, so that what the index shows can be told from what was announced: some 15 MB.
_REMEMBERED: Final = 50_000
# Passes follow each other no sooner than this, however much is announced, and than this many times what one takes.
_APART_S: Final = 0.25
_APART_TIMES: Final = 4.0
# What an estimate of the server's time may be wrong by.
_CLOCKS_MS: Final = 100
# Of so many keys the first look is part of subscribing; more are looked at afterwards, in their own time.
_KEYS_AT_SUBSCRIBING: Final = 20_000
# Where the index may not be read, one look in so many intervals whether it may be by now.
_INTERVALS_WHILE_OFF: Final = 4


@final
class Reconciler:
    """Owns the search for what is missing. ``filtering`` hands what it finds to the streams."""

    def __init__(
        self, settings: Settings, hub: Hub[Source], index: TerminalIndex, filtering: Filtering, counters: Counters
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._index = index
        self._filtering = filtering
        self._counters = counters
        self._failed_log = RateLog(_log)
        # How far the clocks of the servers that hold the index may lie apart.
        self._clocks_ms = settings.clock_skew_ms if settings.options.cluster else 0
        self._due = False
        self._may_be_allowed = False
        self._wake = asyncio.Event()
        self._baseline_due = False
        self._unreadable = 0
        self.reconciliation: Reconciliation = Reconciliation(
            overlap_ms=settings.clock_skew_ms, limit=_REMEMBERED, clocks_ms=self._clocks_ms
        )
        self._recovery = Recovery(index, filtering.questions, self.reconciliation, self._clocks_ms)
        self.off: str = ""
        """Why nothing can be reconciled now; empty where it can."""

    @classmethod
    async def open(
        cls, settings: Settings, hub: Hub[Source], index: TerminalIndex, filtering: Filtering, counters: Counters
    ) -> Self:
        """What the index holds now is old. Raises glide's errors, except for a missing right."""
        made = cls(settings, hub, index, filtering, counters)
        with made._unless_refused():
            told = await index.look()
            if index.key_count <= _KEYS_AT_SUBSCRIBING:
                await made._pass(old=True)
            else:
                made.reconciliation.begin(told)
        # Whatever the index holds by the time of the first pass is old, then.
        made._baseline_due = not made.reconciliation.settled_ms
        return made

    # ── what the streams ask for ─────────────────────────────────────────────────────────────────────────────────

    def request_pass(self, *, reconnected: bool = False) -> None:
        """An interruption has ended: look at once. ``reconnected``: the user's rights may be others now."""
        self._due = True
        self._may_be_allowed = self._may_be_allowed or reconnected
        self._wake.set()

    def now_ms(self) -> int:
        """The server's time, rather too late than too early; 0 where it may not be asked for."""
        return self.reconciliation.server_ms(time.monotonic()) if self.reconciliation.begun else 0

    @property
    def opened_ms(self) -> int:
        """Server time before which nothing can have happened that a stream opened now is to be told of."""
        return self._opened_ms(time.monotonic()) if self.reconciliation.begun else 0

    def _opened_ms(self, opened_at: float) -> int:
        # Rather too early than too late, whatever time an answer takes. In a cluster each server has a clock of its own.
        return self.reconciliation.server_ms_at_least(opened_at) - (self._clocks_ms or _CLOCKS_MS)

    def announced(self, payloads: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """Announcements have arrived. Returns them without those that the last pass has delivered already."""
        if not self.reconciliation.begun:
            return payloads
        fresh = self.reconciliation.announced(payloads, time.monotonic())
        if self.reconciliation.full:
            self.request_pass()
        return fresh

    def backlog(self, selector: Selector) -> Backlog | None:
        """What a stream that overflows now will be missing; None where nothing can be read."""
        if self.off:
            return None
        # The last announcements have not reached the stream: the batch in hand, or all that wait to be decided.
        recent = list(self.reconciliation.recent)
        since_ms = self.reconciliation.settled_ms
        pending = 1
        if needs_lookup(selector):
            pending = self._filtering.pending(selector)
            # Some may have waited for longer than since the last pass, for which they counted as announced.
            waiting_since = self._filtering.settled_ms(selector)
            since_ms = since_ms if waiting_since is None else min(since_ms, waiting_since)
        while recent and pending > 0:
            pending -= recent.pop().count
        return Backlog(since_ms, recent)

    def recover(self, source: Source) -> None:
        """A stream that fell behind has room again."""
        if self.off:
            source.unrecoverable()
        else:
            self._recovery.add(source)
            self._wake.set()

    # ── the task ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until cancelled."""
        backoff, pace = Backoff(0.05, 2.0), Pace(time.monotonic())
        while True:
            interval_s = self._settings.reconcile_interval_s * (_INTERVALS_WHILE_OFF if self.off else 1)
            due_at = pace.began_at + interval_s
            earliest = pace.began_at + max(_APART_S, _APART_TIMES * pace.takes_s)
            await self._until(due_at, earliest)
            now = time.monotonic()
            if now >= due_at:
                self._due = self._may_be_allowed = True
            if self.off and not self._may_be_allowed:
                self._due = False
                continue
            try:
                with self._unless_refused():
                    await self._recovery.go_on()
                    if self._due and now >= earliest:
                        # Before the pass: what is asked for while it runs is another one.
                        self._due = self._may_be_allowed = False
                        pace.begin(time.monotonic())
                        await self._pass(old=self._baseline_due)
                        self._baseline_due = False
                        self._answered()
                        pace.end(time.monotonic())
                backoff.reset()
            except (GlideError, OSError, TimeoutError, EngineError) as exc:
                self._due = True
                self._failed_log.warning(f"the terminal index could not be read ({named(exc)}); trying again")
                await asyncio.sleep(backoff.next_delay())
            except Exception:  # noqa: BLE001  # logged, and tried again
                # A bug of ours must not end the search for what is missing.
                self._due = True
                _log.exception("an error of our own in reconciling; trying again")
                await asyncio.sleep(backoff.next_delay())
            if self.off:
                self._recovery.give_up()

    async def _until(self, due_at: float, earliest: float) -> None:
        """Until a stream has room for what it missed, or a pass is due: asked for and not too early, or by the clock."""
        while not self._recovery:
            wait_s = (earliest if self._due else due_at) - time.monotonic()
            if wait_s <= 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    @contextlib.contextmanager
    def _unless_refused(self) -> Generator[None]:
        """A refusal of the keys turns reconciling off, until it is looked at again. Of anything else is a fault."""
        try:
            yield
        except GlideError as exc:
            if not is_refused(exc):
                raise
            if not self.off:
                _log.warning(
                    "reconciling is off, so what pub/sub forgets is lost: %s; the user needs `ACL SETUSER <user>"
                    " +time +sscan +hget +hmget +zrange %%R~ff:idx:* %%R~ff:config:partitions %%R~ff:exec:*`",
                    translated(exc, self._settings.options.shown, "reconcile"),
                )
            self.off = named(exc)

    def _answered(self) -> None:
        """The whole index was read."""
        if self.off:
            self.off = ""
            _log.info("reconciling is on again")

    # ── all streams ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _pass(self, *, old: bool = False) -> None:
        reconciliation = self.reconciliation
        reconciliation.begin(await self._index.look())
        if reconciliation.stepped_back:
            self._follow_clock()
        since, complete, unreadable = reconciliation.since_ms, False, 0
        skip: Mapping[str, int] = {}
        while not complete:
            page = await page_within_reach(self._index, reconciliation, since, skip=skip)
            candidates = [] if old else reconciliation.candidates(page.entries, time.monotonic())
            payloads, without_record = await self._index.payloads(candidates)
            # Some may have been announced while their records were read.
            still = {found.execution_id for found in reconciliation.candidates(page.entries, time.monotonic())}
            payloads = [payload for payload in payloads if payload.execution_id in still]
            ids = [payload.execution_id for payload in payloads]
            reconciliation.record(page.entries, ids, page.upto, time.monotonic())
            self._counters.reconciled += len(payloads)
            self._counters.malformed += without_record
            unreadable += page.unreadable
            if payloads:
                await self._filtering.found(payloads, reconciliation.settled_ms)
            since, skip, complete = page.upto + 1, page.skip, page.complete
            if not complete:
                # However much of it there is, and however fast more comes.
                await self._recovery.go_on()
        # Entries that make no sense are met again in each pass, and counted once.
        self._counters.malformed += max(0, unreadable - self._unreadable)
        self._unreadable = unreadable
        reconciliation.end()

    def _follow_clock(self) -> None:
        """The server's clock was put back: by what it says now, the streams were opened earlier."""
        _log.warning("the server's clock has gone back; what it writes now is looked for by its new time")
        for source in self._sources():
            source.opened_ms = min(source.opened_ms, self._opened_ms(source.opened_at))
            if source.backlog is not None:
                source.backlog.lower(self.reconciliation.since_ms)

    def _sources(self) -> Iterable[Source]:
        for group in self._hub.groups:
            yield from group.members
