"""Reads what the index holds for those who missed it: for all streams in passes, for an overflowing stream by itself.

One task does it all, one thing at a time. A pass runs every interval, at the end of every gap, and when more has
been announced than is worth remembering. A read that fails is tried again, with backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Final, final

from glide import GlideError

from ffcompletion.backends.valkey.connection import named, translated
from ffcompletion.backends.valkey.decider import Decider, asks
from ffcompletion.backends.valkey.feed import Feed
from ffcompletion.backends.valkey.reconcile import Backlog, Entry, News, Reconciler
from ffcompletion.backends.valkey.terminal import IndexPage, TerminalIndex
from ffcompletion.contract.errors import EngineError, Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Catchup"]

_log: Final = logger("ffcompletion.valkey")

# Passes follow each other no sooner than this, however much is announced.
_APART_S: Final = 0.25

Publish = Callable[[Sequence[CompletionPayload]], Awaitable[None]]


@final
class Catchup:
    """Owns the reconciler. ``publish`` hands completions to every stream, the decider selects for one."""

    def __init__(
        self,
        index: TerminalIndex,
        reconciler: Reconciler,
        publish: Publish,
        decider: Decider,
        shown: str,
        interval_s: float,
        clocks_ms: int,
    ) -> None:
        self._index = index
        self._publish = publish
        self._decider = decider
        self._failed_log = RateLog(_log)
        self._shown = shown
        self._interval_s = interval_s
        # How far the clocks of the servers that hold the index may lie apart.
        self._clocks_ms = clocks_ms
        self._due = asyncio.Event()
        self._wake = asyncio.Event()
        self._behind: dict[Feed, None] = {}
        self.reconciler = reconciler
        self.off: str = ""
        """Why nothing can be reconciled; empty where it can."""
        self.found: int = 0
        """Completions found that no announcement told of."""
        self.unreadable: int = 0
        """Entries of the index without a core record to read."""

    async def baseline(self) -> None:
        """What the index holds now is old. Raises glide's errors, except for a missing right."""
        with self._unless_forbidden():
            await self._pass(old=True)

    def soon(self) -> None:
        """A gap has ended: look at once."""
        self._due.set()
        self._wake.set()

    def now_ms(self) -> int:
        """The server's time, rather too late than too early; 0 where it may not be asked for."""
        return 0 if self.off else self.reconciler.server_ms(time.monotonic())

    def backlog(self, selector: Selector) -> Backlog | None:
        """What a stream that overflows now will be owed; None where nothing can be read."""
        if self.off:
            return None
        # The last announcements have not reached the stream: the batch in hand, or all that wait to be decided.
        told = list(self.reconciler.told)
        since_ms = self.reconciler.settled_ms
        pending = 1
        if asks(selector):
            pending = self._decider.pending
            # Some may have waited for longer than since the last pass, for which they counted as told.
            waiting_since = self._decider.settled_ms
            since_ms = since_ms if waiting_since is None else min(since_ms, waiting_since)
        while told and pending > 0:
            pending -= len(told.pop()[1])
        return Backlog(since_ms, told)

    def serve(self, feed: Feed) -> None:
        """A stream that fell behind has room again."""
        if self.off:
            feed.give_up()
        else:
            self._behind[feed] = None
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(0.05, 2.0)
        last = time.monotonic()
        while True:
            self._wake.clear()
            if not (self._due.is_set() or self._behind):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, last + self._interval_s - time.monotonic())):
                        await self._wake.wait()
            try:
                with self._unless_forbidden():
                    for feed in tuple(self._behind):
                        await self._serve(feed)
                    if self._due.is_set() or time.monotonic() >= last + self._interval_s:
                        await asyncio.sleep(max(0.0, last + _APART_S - time.monotonic()))
                        self._due.clear()
                        last = time.monotonic()
                        await self._pass()
                backoff.reset()
            except (GlideError, OSError, TimeoutError, EngineError) as exc:
                self._due.set()
                self._failed_log.warning(f"the terminal index could not be read ({named(exc)}); trying again")
                await asyncio.sleep(backoff.next_delay())
            except Exception:  # noqa: BLE001  # logged, and tried again
                # A bug of ours must not end the search for what is missing.
                self._due.set()
                _log.exception("an error of our own in reconciling; trying again")
                await asyncio.sleep(backoff.next_delay())
            if self.off:
                for feed in tuple(self._behind):
                    feed.give_up()
                # Streams without room are not in there: they are told when they ask (``serve``).
                return

    @contextlib.contextmanager
    def _unless_forbidden(self) -> Generator[None]:
        try:
            yield
        except GlideError as exc:
            error = translated(exc, self._shown, "reconcile")
            if not isinstance(error, Unavailable):
                raise
            self.off = str(error)
            _log.warning(
                "reconciling is off, so what pub/sub forgets is lost: %s; the user needs `ACL SETUSER <user>"
                " +time +smembers +hget +hmget +zrange %%R~ff:idx:* %%R~ff:config:partitions %%R~ff:exec:*`",
                error,
            )

    # ── all streams ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _pass(self, *, old: bool = False) -> None:
        reconciler = self.reconciler
        reconciler.begin(*await self._index.look())
        since, complete = reconciler.since_ms, False
        while not complete:
            page = await self._index.page(since)
            payloads, unreadable = await self._index.payloads([] if old else reconciler.sift(page.entries))
            # Some may have been announced while their records were read.
            still = {news.execution_id for news in reconciler.sift(page.entries)}
            payloads = [payload for payload in payloads if payload.execution_id in still]
            ids = [payload.execution_id for payload in payloads]
            reconciler.learn(page.entries, ids, page.upto, time.monotonic())
            self.found += len(payloads)
            self.unreadable += unreadable
            if payloads:
                await self._publish(payloads)
            since, complete = page.upto + 1, page.complete
        reconciler.end()

    # ── one stream ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, feed: Feed) -> None:
        backlog = feed.backlog
        if backlog is None or feed.closed:
            self._behind.pop(feed, None)
            return
        page, owed = await self._owed(backlog, feed.room)
        rejoining = page.complete and len(owed) <= feed.room // 2
        if rejoining:
            # From now on it takes what is announced; what the index holds beyond that is read once more.
            feed.rejoin()
            page, owed = await self._owed(backlog, feed.room)
        piece = owed[: feed.room]
        payloads, unreadable = await self._index.payloads([News(*entry) for entry in piece])
        batch = await self._decider.select(feed.selector, payloads)
        if rejoining:
            heard = {payload.execution_id for _, told in feed.heard for payload in told}
            batch = [payload for payload in batch if payload.execution_id not in heard]
        self.unreadable += unreadable
        if feed.give(batch, all_of_it=rejoining and page.complete and len(piece) == len(owed)):
            # Not beyond the moment of asking: what is written while the keys are read has a higher score, and may be
            # missing from a key that was read before it was written.
            backlog.gave(piece, min(_reached(piece, owed, page), page.asked_ms - 1 - self._clocks_ms))
        self._behind.pop(feed, None)
        feed.ask_for_more()

    async def _owed(self, backlog: Backlog, room: int) -> tuple[IndexPage, Sequence[Entry]]:
        """A page, and what of it the stream is owed; something, unless there is nothing beyond."""
        wanted = room
        while True:
            page = await self._index.page(backlog.since_ms, wanted)
            owed = backlog.sift(page.entries)
            if owed or page.complete:
                return page, owed
            # It was given all of this already, and more lies behind it.
            wanted *= 4


def _reached(piece: Sequence[Entry], owed: Sequence[Entry], page: IndexPage) -> int:
    """The score from which the stream's next page is to be read."""
    if len(piece) < len(owed) or page.complete:
        return piece[-1][1] if piece else 0
    return page.upto + 1
