"""The log in memory, and one stream's position in it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import Lag, StreamStats, seconds_since
from ffcompletion.delivery.batch import Facts
from ffcompletion.delivery.buffer import Signal
from ffcompletion.foreign.filters import Wanted, admits
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
        self.entries: deque[_Entry] = deque(maxlen=retention)
        self.states: dict[ExecutionId, ExecutionSnapshot] = {}
        self.end = 0
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

    def keep(self, snapshot: ExecutionSnapshot) -> None:
        # The newest last; as many executions as completions are kept.
        self.states.pop(snapshot.execution_id, None)
        self.states[snapshot.execution_id] = snapshot
        if self.entries.maxlen is not None and len(self.states) > self.entries.maxlen:
            del self.states[next(iter(self.states))]

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
        at_once: int,
        forget: Callable[[Reader], None],
    ) -> None:
        self._log = records
        self._forget = forget
        self._position = position
        self._filter = wanted
        self._results = results
        self._at_once = min(at_once, _BATCH)
        self._delivered = 0
        self._filtered = 0
        self._undecided = 0
        self._lost = 0
        self._overflows = 0
        self.closed: bool = False

    def take(self) -> Sequence[CompletionPayload]:
        records = self._log
        while records.connected and self._position < records.end:
            with records.lock:
                missed = max(0, records.start - self._position)
                self._position += missed
                begin = self._position - records.start
                entries = list(islice(records.entries, begin, begin + self._at_once))
            if missed:
                self._lost += missed
                self._overflows += 1
                log.warning("a consumer fell behind the log's retention; %d completions passed it by", missed)
            self._position += len(entries)
            batch = [self._dress(payload) for payload, facts in entries if self._admit(facts)]
            self._delivered += len(batch)
            if batch:
                return batch
        return ()

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

    async def ready(self) -> None:
        # Emitting and closing may happen on another thread, between any look and any wait.
        await self._log.signal.until(lambda: self.closed or (self._log.connected and self._position < self._log.end))

    def close(self) -> None:
        self.closed = True
        self._forget(self)
        self._log.signal.wake()

    async def released(self) -> None:
        return

    @property
    def cursor(self) -> StreamCursor:
        return self._log.cursor(self._position)

    def stats(self) -> StreamStats:
        records = self._log
        with records.lock:
            position = max(self._position, records.start)
            waiting = records.end - position
            oldest_ms = records.entries[position - records.start][0].produced_at_ms if waiting else 0
        return StreamStats(
            delivered=self._delivered,
            buffered=waiting,
            filtered=self._filtered,
            undecided=self._undecided,
            lost=self._lost,
            overflows=self._overflows,
            lag=Lag(completions=waiting, seconds=seconds_since(oldest_ms)) if waiting else Lag(),
        )
