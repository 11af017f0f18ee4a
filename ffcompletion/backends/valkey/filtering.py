"""Hands completions on: at once to the streams that ask nothing of the server, and to the others when it has answered.

What has to be looked up queues here, bounded; one task takes all that waits, asks about it in few pipelines, and hands
it on, in order. Without an answer nothing is let through and nothing is dropped: it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar, final

from glide import GlideError

from ffcompletion.backends.valkey.errors import named
from ffcompletion.backends.valkey.lookups import Lookups, fit
from ffcompletion.backends.valkey.replies import Execute
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import Denied
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.ids import is_execution_id, trusted_execution_id
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.hub import Group, Hub, Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Filtering", "needs_lookup"]

_T = TypeVar("_T")
_log: Final = logger("ffcompletion.valkey")

# Announcements that may wait for the server's answers: some 25 MB.
_WAITING: Final = 100_000
# One pipeline. More would delay the first of them without being faster.
_BATCH: Final = 1_024


def needs_lookup(selector: Selector) -> bool:
    """Whether the server has to be asked something for such a stream."""
    return selector.filter is not None or selector.results


def _needs_none(selector: Selector) -> bool:
    return not needs_lookup(selector)


def _needs_facts(selector: Selector) -> bool:
    return selector.filter is not None and not selector.results


@final
class Filtering:
    """Owns the queue."""

    def __init__(self, hub: Hub[Source], execute: Execute) -> None:
        self._hub = hub
        self._lookups = Lookups(execute)
        self._waiting: list[CompletionPayload] = []
        # For each of those: the server time up to which all was settled when it came. It is no older.
        self._settled: list[int] = []
        self._arrived = asyncio.Event()
        self._held_log = RateLog(_log)
        self._full_log = RateLog(_log)

    # ── announcements ────────────────────────────────────────────────────────────────────────────────────────────

    def announced(self, payloads: Sequence[CompletionPayload], settled_ms: int) -> None:
        """For every stream, after all that came before. None of them is older than ``settled_ms``."""
        self._hub.publish(Batch(payloads), only=_needs_none)
        if payloads and any(needs_lookup(group.selector) for group in self._hub.groups):
            self._waiting += payloads
            self._settled += [settled_ms] * len(payloads)
            self._arrived.set()
            if len(self._waiting) > _WAITING:
                self._shed()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._waiting[:_BATCH]
            try:
                await self._decide(batch)
            except Exception:  # noqa: BLE001  # it is logged, and nothing is lost by it
                # A bug of ours: the streams concerned fall behind, and go on.
                _log.exception("%d announcements could not be decided", len(batch))
                self._missed(batch)
            # Not before: until then they are pending.
            self._drop(0, len(batch))

    @property
    def pending(self) -> int:
        """Announcements that have not been handed on yet."""
        return len(self._waiting)

    @property
    def settled_ms(self) -> int | None:
        """No announcement that waits is older than this, in the server's time; None if none waits."""
        return self._settled[0] if self._settled else None

    def _drop(self, start: int, count: int) -> None:
        del self._waiting[start : start + count]
        del self._settled[start : start + count]

    def _shed(self) -> None:
        # The server does not answer, or not fast enough: the oldest go, and whoever they were for falls behind.
        self._full_log.warning(f"more than {_WAITING} announcements wait to be decided; the oldest are dropped")
        # Those in hand stay: they are being asked about.
        oldest = self._waiting[_BATCH : len(self._waiting) - _WAITING // 2]
        self._missed(oldest)
        self._drop(_BATCH, len(oldest))

    def _missed(self, batch: Sequence[CompletionPayload]) -> None:
        for group in self._hub.groups:
            for member in tuple(group.members):
                if needs_lookup(group.selector):
                    member.overflow(batch)

    # ── completions that were found in the index ─────────────────────────────────────────────────────────────────

    async def found(self, payloads: Sequence[CompletionPayload]) -> None:
        """For every stream that is not younger than they are. Raises nothing: who does not get them misses them."""
        self._hub.publish(Batch(payloads), only=_needs_none, fit=_since_opened)
        try:
            await self._decide(payloads, since_opened=True)
        except Exception:  # noqa: BLE001  # as in ``run``
            _log.exception("%d completions that were found could not be decided", len(payloads))
            self._missed(payloads)

    async def select(
        self, selector: Selector, payloads: Sequence[CompletionPayload]
    ) -> tuple[Sequence[CompletionPayload], Denied]:
        """What of these is for one stream, with results where it wants them; and what is not."""
        wanted = selector.filter
        facts = None if wanted is None else await self._query(lambda: self._lookups.facts(payloads, [wanted]))
        group = Group[Source](selector)
        admitted = group.select(payloads, facts)
        if selector.results and admitted:
            found = admitted
            admitted = await self._query(lambda: self._lookups.results(found))
        return admitted, Denied(group.filtered, group.undecided)

    async def fitting(self, names: Sequence[str]) -> int:
        """Of how many of these, from the first on, the results fit one question. What is no id has none."""
        ids = [trusted_execution_id(name) for name in names if is_execution_id(name)]
        if not ids:
            return len(names)
        sizes = dict(zip(map(str, ids), await self._query(lambda: self._lookups.sizes(ids)), strict=True))
        return fit([sizes.get(name, 0) for name in names])

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _decide(self, payloads: Sequence[CompletionPayload], *, since_opened: bool = False) -> None:
        filters, wants_results = self._hub.filters, self._hub.wants_results
        if not (filters or wants_results):
            return
        facts = await self._query(lambda: self._lookups.facts(payloads, filters)) if filters else None
        mine = _since_opened if since_opened else None
        # Results are a second question: who did not ask for any waits for none.
        self._hub.publish(Batch(payloads, facts=facts), only=_needs_facts, fit=mine)
        selectors = frozenset(group.selector for group in self._hub.groups if group.selector.results)
        if not selectors:
            return
        wanted: set[str] = set()
        for selector in selectors:
            # A group of its own, so that nothing is counted twice.
            wanted.update(payload.execution_id for payload in Group[Source](selector).select(payloads, facts))
        while payloads:
            count, rich = await self._with_results(payloads, wanted)
            decided = None if facts is None else facts[:count]
            # Who joined meanwhile may want other results than these, and is younger than they are.
            self._hub.publish(Batch(payloads[:count], rich, decided), only=selectors.__contains__, fit=mine)
            payloads, facts = payloads[count:], None if facts is None else facts[count:]

    async def _with_results(
        self, payloads: Sequence[CompletionPayload], wanted: AbstractSet[str]
    ) -> tuple[int, Sequence[CompletionPayload]]:
        """As many of them as one question about results is good for, and these with the results that are wanted."""
        asked = [payload for payload in payloads if payload.execution_id in wanted]
        if not asked:
            return len(payloads), payloads
        asked = asked[: await self.fitting([payload.execution_id for payload in asked])]
        found = await self._query(lambda: self._lookups.results(asked))
        by_id = {payload.execution_id: payload for payload in found}
        count = 0
        while count < len(payloads) and not (
            payloads[count].execution_id in wanted and payloads[count].execution_id not in by_id
        ):
            count += 1
        return count, [by_id.get(payload.execution_id, payload) for payload in payloads[:count]]

    async def _query(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        backoff = Backoff(0.02, 1.0)
        while True:
            try:
                return await ask()
            except (GlideError, OSError, TimeoutError, EngineError) as exc:
                self._held_log.warning(f"the server did not answer what a filter asks ({named(exc)}); holding")
                await asyncio.sleep(backoff.next_delay())


def _since_opened(source: Source, batch: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
    """Of what was found in the index: what is not older than the stream."""
    if not batch or batch[0].produced_at_ms >= source.opened_ms:
        return batch
    # Skipped ones bear the time of another clock.
    return [item for item in batch if item.produced_at_ms >= source.opened_ms or item.outcome == "skipped"]
