"""The log in memory, and one stream's position in it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.delivery.batch import Facts
from ffcompletion.delivery.buffer import Hand, Room, Signal, sizes_of
from ffcompletion.foreign.filters import Wanted, admits, asked_at_once
from ffcompletion.foreign.logs import logger

__all__ = ["Log", "Reader", "log"]

log: Final = logger("ffcompletion.memory")
# Small enough that a consumer yields the loop often, large enough that slicing costs nothing per item.
_BATCH: Final = 256

_Entry = tuple[CompletionPayload, Facts]


@final
class Log:
    """The last ``retention`` completions, each with what filters ask about it."""

    def __init__(self, retention: int) -> None:
        self._retention = retention
        # A ring once it is full: the entry at a position lies at its remainder, so that reading takes as many steps
        # as it brings entries, wherever in the log that is.
        self.entries: list[_Entry] = []
        # In order of the last change; a plain dict would look at all that was deleted at its front, each time.
        self.states: OrderedDict[ExecutionId, ExecutionSnapshot] = OrderedDict()
        self.end: int = 0
        self.signal: Signal = Signal()
        # Whether what is in it reaches the streams.
        self.connected: bool = True
        # Completions may be emitted on any thread: entries and end change together.
        self.lock: threading.Lock = threading.Lock()
        # Distinguishes this log's cursors from another's, also from one of an earlier process.
        self.epoch: int = time.time_ns() // 1000

    @property
    def start(self) -> int:
        return self.end - len(self.entries)

    def append(self, entry: _Entry) -> None:
        # The oldest goes where there is no more room. The lock is held.
        if len(self.entries) < self._retention:
            self.entries.append(entry)
        else:
            self.entries[self.end % self._retention] = entry
        self.end += 1

    def since(self, position: int, most: int) -> Sequence[_Entry]:
        """The entries from a position on that is still kept, so many at the most. The lock is held."""
        at = position % self._retention
        most = min(most, self.end - position)
        found = self.entries[at : at + most]
        return found if len(found) == most else found + self.entries[: most - len(found)]

    def keep(self, snapshot: ExecutionSnapshot) -> None:
        # The newest last; as many executions as completions are kept.
        self.states[snapshot.execution_id] = snapshot
        self.states.move_to_end(snapshot.execution_id)
        if len(self.states) > self._retention:
            self.states.popitem(last=False)

    def cursor(self, position: int) -> StreamCursor:
        return StreamCursor.stream(self.epoch, position)


@final
class Reader:
    """One stream: a position in the log."""

    def __init__(
        self,
        records: Log,
        position: int,
        wanted: Wanted | None,
        results: bool,
        holds: int,
        forget: Callable[[Reader], None],
    ) -> None:
        self._log = records
        self._forget = forget
        self._position = position
        self._filter = wanted
        self._results = results
        self._holds = holds
        self._at_once = min(holds, asked_at_once(wanted, _BATCH))
        self._hand = Hand()
        self._delivered = 0
        self._filtered = 0
        self._undecided = 0
        self._lost = 0
        self._overflows = 0
        # Once it is closed: nothing is announced to it any more.
        self._at_last: StreamStats | None = None

    def take(self) -> Hand:
        records = self._log
        # Once, whatever comes of it: what admits little of a long log gives the others their turns, in `ready`.
        if self._more:
            with records.lock:
                missed = max(0, records.start - self._position)
                self._position += missed
                entries = records.since(self._position, self._at_once)
            if missed:
                self._lost += missed
                self._overflows += 1
                log.warning("a consumer fell behind the log's retention; %d completions passed it by", missed)
            if self._results:
                entries = entries[: Room(self._at_once).fit(sizes_of(payload for payload, _ in entries))]
            self._position += len(entries)
            batch = [self._dress(payload) for payload, facts in entries if self._admit(facts)]
            self._delivered += len(batch)
            if batch:
                self._hand = Hand(batch)
                return self._hand
        return Hand()

    def _admit(self, facts: Facts) -> bool:
        if self._filter is None:
            return True
        key = self._filter.tag_key
        verdict = admits(self._filter, facts[0], None if key is None else facts[1].get(key))
        if verdict is None:
            self._undecided += 1
        elif not verdict:
            self._filtered += 1
        return bool(verdict)

    def _dress(self, payload: CompletionPayload) -> CompletionPayload:
        if self._results or payload.payload_bytes is None:
            return payload
        return msgspec.structs.replace(payload, payload_bytes=None)

    @property
    def _more(self) -> bool:
        return self._log.connected and self._position < self._log.end

    async def ready(self) -> None:
        if self._more:
            await asyncio.sleep(0)
        # Emitting and closing may happen on another thread, between any look and any wait.
        await self._log.signal.until(lambda: self.closed or self._more)

    @property
    def closed(self) -> bool:
        return self._at_last is not None

    def abort(self) -> None:
        self._at_last = self.stats()
        self._forget(self)
        self._log.signal.wake()

    async def aclose(self) -> None:
        self.abort()

    @property
    def cursor(self) -> StreamCursor:
        return self._log.cursor(self._position)

    def stats(self) -> StreamStats:
        if self._at_last is not None:
            return self._at_last
        records = self._log
        with records.lock:
            position = max(self._position, records.start)
            missed = position - self._position
            waiting = records.end - position
            oldest_ms = records.since(position, 1)[0][0].produced_at_ms if waiting else 0
        # What is beyond the bound is nobody's yet but the log's.
        room = max(0, self._holds - self._hand.left)
        return StreamStats(
            delivered=self._delivered,
            buffered=min(waiting, room),
            filtered=self._filtered,
            undecided=self._undecided,
            lost=self._lost + missed,
            overflows=self._overflows + bool(missed),
            catching_up=waiting > room,
            lag=Lag(completions=waiting, seconds=seconds_since(oldest_ms)) if waiting else Lag(),
        )
