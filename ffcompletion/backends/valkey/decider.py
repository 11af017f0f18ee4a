"""Decides for the streams that ask something of the server (a filter, a result), while the others do not wait.

What has been announced queues here, bounded; one task takes all that waits, asks the gate about it in few pipelines,
and hands it on, in order. Without an answer nothing is let through and nothing is dropped: it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, final

from glide import GlideError

from ffcompletion.backends.valkey.connection import named
from ffcompletion.backends.valkey.feed import Feed
from ffcompletion.backends.valkey.gate import Ask, Gate
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Fit, Group, Hub, Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Decider", "asks"]

_T = TypeVar("_T")
_log: Final = logger("ffcompletion.valkey")

# Announcements that may wait for the server's answers: some 25 MB.
_WAITING: Final = 100_000
# One pipeline. More would delay the first of them without being faster.
_BATCH: Final = 1_024


def asks(selector: Selector) -> bool:
    """Whether the server has to be asked something for such a stream."""
    return selector.filter is not None or selector.results


@final
class Decider:
    """Owns the queue."""

    def __init__(self, hub: Hub, ask: Ask) -> None:
        self._hub = hub
        self._gate = Gate(ask)
        self._waiting: list[CompletionPayload] = []
        # For each of those: the server time up to which all was settled when it came. It is no older.
        self._settled: list[int] = []
        self._arrived = asyncio.Event()
        self._held_log = RateLog(_log)
        self._full_log = RateLog(_log)

    def submit(self, payloads: Sequence[CompletionPayload], settled_ms: int) -> None:
        """These are to be decided, after all that came before. None of them is older than ``settled_ms``."""
        if not payloads or not any(asks(group.selector) for group in self._hub.groups):
            return
        self._waiting += payloads
        self._settled += [settled_ms] * len(payloads)
        self._arrived.set()
        if len(self._waiting) > _WAITING:
            self._shed()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch = self._waiting[:_BATCH]
                try:
                    await self.decide(batch)
                except Exception:  # noqa: BLE001  # it is logged, and nothing is lost by it
                    # A bug of ours, or in somebody's filter: their streams fall behind, and go on.
                    _log.exception("%d announcements could not be decided", len(batch))
                    self._missed(batch)
                # Not before: until then they are owed.
                self._done(0, len(batch))

    @property
    def pending(self) -> int:
        """Announcements that have not been handed on yet."""
        return len(self._waiting)

    @property
    def settled_ms(self) -> int | None:
        """No announcement that waits is older than this, in the server's time; None if none waits."""
        return self._settled[0] if self._settled else None

    def _done(self, start: int, count: int) -> None:
        del self._waiting[start : start + count]
        del self._settled[start : start + count]

    async def decide_found(self, payloads: Sequence[CompletionPayload], fit: Fit) -> None:
        """The same as ``decide``, and raises nothing: whoever did not get them is owed them."""
        try:
            await self.decide(payloads, fit)
        except Exception:  # noqa: BLE001  # as in ``run``
            _log.exception("%d completions that were found could not be decided", len(payloads))
            self._missed(payloads)

    async def decide(self, payloads: Sequence[CompletionPayload], fit: Fit | None = None) -> None:
        """Hand these to the streams that ask something, when it has been answered."""
        filters, wants_results = self._hub.filters, self._hub.wants_results
        facts = await self._insist(lambda: self._gate.facts(payloads, filters)) if filters else None
        full = await self._insist(lambda: self._gate.results(payloads)) if wants_results else None
        if filters or wants_results:
            self._hub.publish(payloads, full, facts, only=asks, fit=fit)

    async def select(self, selector: Selector, payloads: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """What of these is for one stream, with results where it wants them."""
        wanted = selector.filter
        facts = None if wanted is None else await self._insist(lambda: self._gate.facts(payloads, [wanted]))
        if selector.results:
            payloads = await self._insist(lambda: self._gate.results(payloads))
        return Group(selector).select(payloads, facts)

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        backoff = Backoff(0.02, 1.0)
        while True:
            try:
                return await ask()
            except (GlideError, OSError, TimeoutError) as exc:
                self._held_log.warning(f"the server did not answer what a filter asks ({named(exc)}); holding")
                await asyncio.sleep(backoff.next_delay())

    def _shed(self) -> None:
        # The server does not answer, or not fast enough: the oldest go, and whoever they were for falls behind.
        self._full_log.warning(f"more than {_WAITING} announcements wait to be decided; the oldest are dropped")
        # Those in hand stay: they are being asked about.
        oldest = self._waiting[_BATCH : len(self._waiting) - _WAITING // 2]
        self._missed(oldest)
        self._done(_BATCH, len(oldest))

    def _missed(self, batch: Sequence[CompletionPayload]) -> None:
        for group in self._hub.groups:
            for member in tuple(group.members):
                if asks(group.selector) and isinstance(member, Feed):
                    member.overflow(batch)
