"""Streams that fell behind, and have room again: each is given what the index holds of what it missed, and joins."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, final

import msgspec

from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.index import MOST, IndexPage, TerminalIndex
from ffcompletion.backends.valkey.reconciliation import Candidate, Entry, Reconciliation
from ffcompletion.backends.valkey.retrying import Retrying
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import NOTHING_DENIED, Denied
from ffcompletion.contract.ids import is_execution_id, trusted_execution_id
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import Facts
from ffcompletion.delivery.hub import Group
from ffcompletion.foreign.filters import asked_at_once

__all__ = ["Recovery", "page_within_reach"]

# Pages that are kept for the streams that are at nearly the same place, and executions of which it is kept what filters ask.
_PAGES: Final = 4
_FACTS: Final = 40_000
# Executions that a filter is asked about between two turns of the loop, and how many times that in one round.
_AT_ONCE: Final = 4_096
_PORTIONS: Final = 16


@final
class Recovery:
    """Those of them that ask. ``clocks_ms``: how far the clocks of the servers that hold the index may lie apart."""

    def __init__(
        self, index: TerminalIndex, questions: Retrying, reconciliation: Reconciliation, clocks_ms: int
    ) -> None:
        self._index = index
        self._questions = questions
        self._reconciliation = reconciliation
        self._clocks_ms = clocks_ms
        self._sources: dict[Source, None] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def add(self, source: Source) -> None:
        """It has room again."""
        self._sources[source] = None

    def give_up(self) -> None:
        """Nothing can be read: what those who ask have missed is lost. Streams without room ask later."""
        sources, self._sources = self._sources, {}
        for source in sources:
            source.unrecoverable()

    async def go_on(self) -> None:
        """A page for each. Raises glide's errors."""
        behind = [(backlog.since_ms, source) for source in self._sources if (backlog := source.backlog) is not None]
        behind.sort(key=lambda each: each[0])
        together = _Round(self._index, self._questions, self._reconciliation, [source for _, source in behind])
        for source in dict.fromkeys([*(source for _, source in behind), *self._sources]):
            await self._recover(source, together)
            # Nothing may have had to be asked for it.
            await asyncio.sleep(0)

    async def _recover(self, source: Source, together: _Round) -> None:
        backlog = source.backlog
        if backlog is None or source.closed:
            self._sources.pop(source, None)
            return
        page, pending = await self._pending(source, backlog, together)
        joining = source in together.joining or _may_join(source, page, pending)
        if joining and source not in together.joining:
            # From now on it takes what is announced; what the index holds beyond that is read once more, for all that can
            # be seen to be as far.
            source.join()
            self._join_with(together)
            together.forget_pages()
            page, pending = await self._pending(source, backlog, together)
        piece = pending[: _most(source, backlog)]
        chosen, denied = await self._choose(source, piece, together)
        # What no filter has looked at may be nothing at all: then it takes no room.
        most = max(1, len(chosen) if source.selector.filter is None else source.room.items)
        if source.selector.results:
            most = min(most, await self._questions.fitting([name for name, _ in chosen[:most]]))
        if most < len(chosen):
            piece = piece[: piece.index(chosen[most])]
            chosen, denied = await self._choose(source, piece, together)
        batch = await self._read(source, chosen)
        while len(piece) > 1 and not source.fits(batch):
            # More than there is room for; or results that are larger than was said, or whose sizes we may not ask for.
            piece = piece[: len(piece) // 2]
            chosen, denied = await self._choose(source, piece, together)
            batch = await self._read(source, chosen)
        all_of_it = joining and page.complete and len(piece) == len(pending)
        if source.recovered(batch, denied, all_of_it=all_of_it):
            # Not beyond the moment of asking: what is written while the keys are read has a higher score, and may be
            # missing from a key that was read before it was written.
            backlog.looked(len(piece), len(batch))
            backlog.delivered(piece, min(page.reached(piece, pending), page.asked_ms - 1 - self._clocks_ms))
        self._sources.pop(source, None)
        source.request()

    def _join_with(self, together: _Round) -> None:
        """Those that were put behind together join together, once in a round: each would read all keys for itself."""
        others, together.others = together.others, []
        for source in others:
            backlog = source.backlog
            if backlog is None or source.closed or source not in self._sources:
                continue
            page = together.page_at_hand(backlog.since_ms, _wanted(source, backlog), backlog.skip)
            if page is not None and _may_join(source, page, backlog.pending(page.entries)):
                source.join()
                together.joining.add(source)

    async def _choose(self, source: Source, piece: Sequence[Entry], together: _Round) -> tuple[Sequence[Entry], Denied]:
        """What of these the stream's filter admits, and what it does not. No record but the filter's own is read yet."""
        if source.selector.filter is None:
            return piece, NOTHING_DENIED
        group, chosen = Group[Source](source.selector), list[Entry]()
        payloads, facts = await together.facts(piece)
        at_once = asked_at_once(source.selector.filter, _AT_ONCE)
        for start in range(0, len(payloads), at_once):
            await asyncio.sleep(0)
            some = slice(start, start + at_once)
            admitted = group.select(payloads[some], facts[some])
            chosen += [(str(each.execution_id), each.produced_at_ms) for each in admitted]
        return chosen, Denied(group.filtered, group.undecided)

    async def _read(self, source: Source, chosen: Sequence[Entry]) -> Sequence[CompletionPayload]:
        """The completions behind these, but for what was announced to the stream since it began to join."""
        payloads, _ = await self._index.payloads([Candidate(*entry) for entry in chosen])
        batch = source.without_received(payloads)
        if source.selector.results and batch:
            batch = await self._questions.results(batch)
        # While they were read, more was announced.
        return source.without_received(batch)

    async def _pending(self, source: Source, backlog: Backlog, together: _Round) -> tuple[IndexPage, Sequence[Entry]]:
        """A page, and what of it the stream is missing; something, unless there is nothing beyond."""
        wanted = _wanted(source, backlog)
        since_ms, asked_ms, skip = backlog.since_ms, 0, backlog.skip
        while True:
            page = await together.page(since_ms, wanted, skip)
            # What is written meanwhile may lie where the first of the pages was.
            asked_ms = asked_ms or page.asked_ms
            pending = backlog.pending(page.entries)
            if pending or page.complete:
                return msgspec.structs.replace(page, asked_ms=asked_ms), pending
            # It was given all of this already, and more lies behind it.
            wanted, since_ms, skip = wanted * 4, page.upto + 1, page.skip
            if since_ms == backlog.since_ms < asked_ms - 1 - self._clocks_ms:
                # Nothing is written with that score any more.
                backlog.skip = skip


@final
class _Round:
    """What is read for streams that fell behind, once for all of them: somebody's flood has put them behind together."""

    def __init__(
        self, index: TerminalIndex, questions: Retrying, reconciliation: Reconciliation, sources: Sequence[Source]
    ) -> None:
        self._index = index
        self._questions = questions
        self._reconciliation = reconciliation
        self._filters = list(dict.fromkeys(wanted for each in sources if (wanted := each.selector.filter) is not None))
        self._pages: deque[_Read] = deque(maxlen=_PAGES)
        self._facts: dict[Entry, tuple[CompletionPayload, Facts | None] | None] = {}
        self.others: Sequence[Source] = sources
        """Those that may join when the first of them does."""
        self.joining: set[Source] = set()
        """Those that did."""

    async def page(self, since_ms: int, wanted: int, skip: Mapping[str, int]) -> IndexPage:
        """Everything from there on, up to wherever it reaches."""
        known = self.page_at_hand(since_ms, wanted, skip)
        if known is not None:
            return known
        page = await page_within_reach(self._index, self._reconciliation, since_ms, wanted, skip=skip)
        page = msgspec.structs.replace(page, entries=sorted(page.entries, key=_score))
        self._pages.append(_Read(since_ms, skip, page))
        return page

    def page_at_hand(self, since_ms: int, wanted: int, skip: Mapping[str, int]) -> IndexPage | None:
        """The same, where it has been read already."""
        found = (read.since(since_ms, skip, wanted) for read in self._pages)
        return next((page for page in found if page is not None), None)

    def forget_pages(self) -> None:
        """What has been written by now counts."""
        self._pages.clear()

    async def facts(self, piece: Sequence[Entry]) -> tuple[Sequence[CompletionPayload], Sequence[Facts | None]]:
        """Those of them that name an execution, and what their filters are decided by."""
        unknown = [entry for entry in piece if entry not in self._facts]
        if unknown:
            if len(self._facts) > _FACTS:
                self._facts.clear()
                unknown = list(piece)
            payloads = [
                CompletionPayload(trusted_execution_id(name), "", None, score)
                for name, score in unknown
                if is_execution_id(name)
            ]
            found = await self._questions.facts(payloads, self._filters)
            self._facts.update(dict.fromkeys(unknown))
            for payload, known in zip(payloads, found, strict=True):
                self._facts[str(payload.execution_id), payload.produced_at_ms] = (payload, known)
        named = [each for entry in piece if (each := self._facts[entry]) is not None]
        return [payload for payload, _ in named], [known for _, known in named]


class _Read(NamedTuple):
    """A page, and from where it was read."""

    since_ms: int
    skip: Mapping[str, int]
    page: IndexPage

    def since(self, since_ms: int, skip: Mapping[str, int], wanted: int) -> IndexPage | None:
        """What it says of what has such a score, or a higher one; None where that is not all, or little."""
        if since_ms == self.since_ms and skip == self.skip:
            return self.page
        if skip or not self.since_ms < since_ms <= self.page.upto:
            return None
        start = bisect_left(self.page.entries, since_ms, key=_score)
        if len(self.page.entries) - start < wanted and not self.page.complete:
            return None
        return msgspec.structs.replace(self.page, entries=self.page.entries[start:])


def _most(source: Source, backlog: Backlog) -> int:
    """How many entries are looked into for it in one round. Where its filter is somebody's code, others wait for that."""
    return min(max(source.room.items, backlog.look_into), _PORTIONS * asked_at_once(source.selector.filter, _AT_ONCE))


def _wanted(source: Source, backlog: Backlog) -> int:
    """A page holds up to twice as many as are wanted, and what is not looked into is read once more."""
    return min(_most(source, backlog), max(source.room.items, backlog.look_into // 2))


def _may_join(source: Source, page: IndexPage, pending: Sequence[Entry]) -> bool:
    return page.complete and len(pending) <= source.room.items // 2


def _score(entry: Entry) -> int:
    return entry[1]


async def page_within_reach(
    index: TerminalIndex,
    reconciliation: Reconciliation,
    since_ms: int,
    wanted: int = MOST,
    *,
    skip: Mapping[str, int],
) -> IndexPage:
    """A page without what claims to be of the future. Raises glide's errors."""
    page = await index.page(since_ms, reconciliation.reach_ms(time.monotonic()), wanted, skip)
    reconciliation.saw(page.asked_ms)
    return page
