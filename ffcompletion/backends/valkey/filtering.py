"""Hands completions on: at once to the streams that ask nothing of the server, and to the others when it has answered.

What has to be looked up queues here, bounded, in two lines: for streams that want results, which may take long, and for
those that want none. One task for each takes all that waits, asks about it in few pipelines, and hands it on, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, final

from ffcompletion.backends.valkey.lookups import Lookups
from ffcompletion.backends.valkey.replies import Execute
from ffcompletion.backends.valkey.retrying import Retrying
from ffcompletion.backends.valkey.source import Source
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.hub import Fit, Group, Hub, Selector
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Filtering", "needs_lookup"]

_log: Final = logger("ffcompletion.valkey")

# Completions that may wait for the server's answers, in each line: some 25 MB.
_WAITING: Final = 100_000
# One pipeline. More would delay the first of them without being faster.
_BATCH: Final = 1_024
# While more than these wait, nothing is asked for streams that are to get it from the index anyway.
_HURRIED: Final = 8 * _BATCH


def needs_lookup(selector: Selector) -> bool:
    """Whether the server has to be asked something for such a stream."""
    return selector.filter is not None or selector.results


def _needs_none(selector: Selector) -> bool:
    return not needs_lookup(selector)


@final
class _Line:
    """What waits to be decided for the streams with results, or for those without: neither waits for the other."""

    def __init__(self, hub: Hub[Source], retrying: Retrying, *, results: bool) -> None:
        self._hub = hub
        self._retrying = retrying
        self._results = results
        self._waiting: list[CompletionPayload] = []
        # For each of those: the server time up to which all was settled when it came. An announcement is no older.
        self._settled: list[int] = []
        # And whether it was found in the index: then it is for the streams alone that are not younger.
        self._found: list[bool] = []
        self._arrived = asyncio.Event()
        # What waits is of several pages, and results bring the times that the records say.
        self._fit = _since_opened if results else _of_page_since_opened
        self._full_log = RateLog(_log)

    def _concerns(self, selector: Selector) -> bool:
        return selector.results is self._results and needs_lookup(selector)

    @property
    def wanted(self) -> bool:
        """Whether anybody stands here."""
        return any(self._concerns(group.selector) for group in self._hub.groups)

    def add(self, payloads: Sequence[CompletionPayload], settled_ms: int, *, found: bool) -> None:
        """These follow."""
        if not payloads or not self.wanted:
            return
        self._waiting += payloads
        self._settled += [settled_ms] * len(payloads)
        self._found += [found] * len(payloads)
        self._arrived.set()
        if len(self._waiting) > _WAITING:
            self._shed()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            found = self._found[0]
            count = min(_BATCH, len(self._waiting))
            if (not found) in self._found[:count]:
                count = self._found.index(not found)
            batch = self._waiting[:count]
            await self.decided(batch, found=found)
            # Not before: until then they are pending.
            self._drop(0, len(batch))

    async def decided(self, batch: Sequence[CompletionPayload], *, found: bool) -> None:
        """Decide and hand on. Raises nothing: who does not get them misses them."""
        try:
            await self._decide(batch, self._fit if found else None)
        except Exception:  # noqa: BLE001  # it is logged, and nothing is lost by it
            # A bug of ours: the streams concerned fall behind, and go on.
            _log.exception("%d completions could not be decided", len(batch))
            self._missed(batch, found=found)

    @property
    def pending(self) -> int:
        """Completions that have not been handed on yet."""
        return len(self._waiting)

    @property
    def settled_ms(self) -> int | None:
        """No announcement that waits is older than this, in the server's time; None if none waits."""
        return self._settled[0] if self._settled else None

    def _drop(self, start: int, count: int) -> None:
        for column in (self._waiting, self._settled, self._found):
            del column[start : start + count]

    def _shed(self) -> None:
        # The server does not answer, or not fast enough: the oldest go, and whoever they were for falls behind.
        self._full_log.warning(f"more than {_WAITING} announcements wait to be decided; the oldest are dropped")
        # Those in hand stay: they are being asked about.
        upto = len(self._waiting) - _WAITING // 2
        for found in (False, True):
            old = [self._waiting[at] for at in range(_BATCH, upto) if self._found[at] is found]
            self._missed(old, found=found)
        self._drop(_BATCH, upto - _BATCH)

    def _missed(self, batch: Sequence[CompletionPayload], *, found: bool) -> None:
        for group in self._groups():
            _overflow(group, batch, found=found)

    def _groups(self) -> Sequence[Group[Source]]:
        return [group for group in self._hub.groups if self._concerns(group.selector)]

    async def _decide(self, payloads: Sequence[CompletionPayload], fit: Fit[Source] | None) -> None:
        # Who joins meanwhile is younger than these, or gets them from the index.
        selectors: set[Selector] = set()
        for group in self._groups():
            if self.pending > _HURRIED and not any(member.takes for member in group.members):
                _overflow(group, payloads, found=fit is not None)
            else:
                selectors.add(group.selector)
        if not selectors:
            return
        filters = list(dict.fromkeys(wanted for each in selectors if (wanted := each.filter) is not None))
        facts = await self._retrying.facts(payloads, filters) if filters else None
        if not self._results:
            self._hub.publish(Batch(payloads, facts=facts), only=selectors.__contains__, fit=fit)
            return
        names: set[str] = set()
        for selector in selectors:
            # A group of its own, so that nothing is counted twice.
            names.update(payload.execution_id for payload in Group[Source](selector).select(payloads, facts))
        while payloads:
            count, rich = await self._retrying.with_results(payloads, names)
            decided = None if facts is None else facts[:count]
            self._hub.publish(Batch(payloads[:count], rich, decided), only=selectors.__contains__, fit=fit)
            payloads, facts = payloads[count:], None if facts is None else facts[count:]


@final
class Filtering:
    """Owns the lines."""

    def __init__(self, hub: Hub[Source], execute: Execute, patiently: Execute) -> None:
        """``patiently``: runs what may take long, so that nobody else waits for it."""
        self._hub = hub
        self.questions: Final = Retrying(Lookups(execute, patiently))
        self._lines = [_Line(hub, self.questions, results=results) for results in (False, True)]

    def announced(self, payloads: Sequence[CompletionPayload], settled_ms: int) -> None:
        """For every stream, after all that came before. None of them is older than ``settled_ms``."""
        self._hub.publish(Batch(payloads), only=_needs_none)
        for line in self._lines:
            line.add(payloads, settled_ms, found=False)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for line in self._lines:
                group.create_task(line.run(), name="ffcompletion-valkey-filtering")

    def pending(self, selector: Selector) -> int:
        """Completions that have not been handed on yet to such a stream."""
        return self._lines[selector.results].pending

    def settled_ms(self, selector: Selector) -> int | None:
        """No announcement that waits for such streams is older than this, in the server's time; None if none waits."""
        return self._lines[selector.results].settled_ms

    async def found(self, payloads: Sequence[CompletionPayload], settled_ms: int) -> None:
        """Found in the index: for every stream that is not younger than they are. With results, later. Raises nothing."""
        self._hub.publish(Batch(payloads), only=_needs_none, fit=_of_page_since_opened)
        self._lines[True].add(payloads, settled_ms, found=True)
        await self._lines[False].decided(payloads, found=True)


def _overflow(group: Group[Source], batch: Sequence[CompletionPayload], *, found: bool) -> None:
    for member in tuple(group.members):
        mine = _since_opened(member, batch) if found else batch
        if mine:
            member.overflow(mine)


def _since_opened(source: Source, batch: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
    """Of what was found in the index: what is not older than the stream."""
    # Skipped ones bear the time of another clock.
    return [item for item in batch if item.produced_at_ms >= source.opened_ms or item.outcome == "skipped"]


def _of_page_since_opened(source: Source, page: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
    """The same, of one page, whose first is the oldest."""
    if not page or page[0].produced_at_ms >= source.opened_ms:
        return page
    return _since_opened(source, page)
