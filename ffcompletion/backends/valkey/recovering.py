"""Streams that fell behind, and have room again: each is given what the index holds of what it missed, and joins."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import final

import msgspec

from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.filtering import Filtering
from ffcompletion.backends.valkey.index import MOST, IndexPage, TerminalIndex
from ffcompletion.backends.valkey.reconciliation import Candidate, Entry, Reconciliation
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import Denied
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["Recovery", "page_within_reach"]


@final
class Recovery:
    """Those of them that ask. ``clocks_ms``: how far the clocks of the servers that hold the index may lie apart."""

    def __init__(
        self, index: TerminalIndex, filtering: Filtering, reconciliation: Reconciliation, clocks_ms: int
    ) -> None:
        self._index = index
        self._filtering = filtering
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
        for source in tuple(self._sources):
            await self._recover(source)

    async def _recover(self, source: Source) -> None:
        backlog = source.backlog
        if backlog is None or source.closed:
            self._sources.pop(source, None)
            return
        page, pending = await self._pending(backlog, source.room.items)
        joining = page.complete and len(pending) <= source.room.items // 2
        if joining:
            # From now on it takes what is announced; what the index holds beyond that is read once more.
            source.join()
            page, pending = await self._pending(backlog, source.room.items)
        piece = pending[: max(source.room.items, backlog.look_into)]
        if source.selector.results:
            piece = piece[: await self._filtering.fitting([name for name, _ in piece])]
        batch, denied = await self._select(source, piece)
        while len(piece) > 1 and not source.fits(batch):
            # More than there is room for; or results that are larger than was said, or whose sizes we may not ask for.
            piece = piece[: len(piece) // 2]
            batch, denied = await self._select(source, piece)
        all_of_it = joining and page.complete and len(piece) == len(pending)
        if source.recovered(batch, denied, all_of_it=all_of_it):
            # Not beyond the moment of asking: what is written while the keys are read has a higher score, and may be
            # missing from a key that was read before it was written.
            backlog.looked(len(piece), len(batch))
            backlog.delivered(piece, min(page.reached(piece, pending), page.asked_ms - 1 - self._clocks_ms))
        self._sources.pop(source, None)
        source.request()

    async def _select(self, source: Source, piece: Sequence[Entry]) -> tuple[Sequence[CompletionPayload], Denied]:
        """What of these is for the stream and was not announced to it since it began to join; and what is not."""
        payloads, _ = await self._index.payloads([Candidate(*entry) for entry in piece])
        batch, denied = await self._filtering.select(source.selector, source.without_received(payloads))
        # While it was being decided, more was announced.
        return source.without_received(batch), denied

    async def _pending(self, backlog: Backlog, room: int) -> tuple[IndexPage, Sequence[Entry]]:
        """A page, and what of it the stream is missing; something, unless there is nothing beyond."""
        wanted, since_ms, asked_ms, skip = room, backlog.since_ms, 0, backlog.skip
        while True:
            page = await page_within_reach(self._index, self._reconciliation, since_ms, wanted, skip=skip)
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
