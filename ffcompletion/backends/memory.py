"""Completions within one process: for tests, for development, and for programs that are their own engine.

A log in memory; every stream is a position in it, so nobody waits for a slow consumer. ``emit`` is on this class
alone, because here the backend is the producer.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Self, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionFilter, ExecutionReader, ResumableCompletionBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendEvent, BackendState, BackendStats, Observer, StreamStats
from ffcompletion.delivery.buffer import Signal
from ffcompletion.delivery.hub import Facts, admits
from ffcompletion.delivery.stream import Subscription

__all__ = ["MemoryBackend"]

_log = logging.getLogger("ffcompletion.memory")
# Small enough that a consumer yields the loop often, large enough that slicing costs nothing per item.
_BATCH: Final = 256

_Entry = tuple[CompletionPayload, Facts]


@final
class _Log:
    """The last ``retention`` completions, each with what filters ask about it."""

    def __init__(self, retention: int) -> None:
        self.entries: deque[_Entry] = deque(maxlen=retention)
        self.states: dict[ExecutionId, ExecutionSnapshot] = {}
        self.end = 0
        self.signal = Signal()
        # Distinguishes this log's cursors from another's, also from one of an earlier process.
        self.epoch = time.time_ns() // 1000

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
class _Reader:
    """One stream: a position in the log."""

    def __init__(
        self, backend: MemoryBackend, log: _Log, position: int, wanted: CompletionFilter | None, results: bool
    ) -> None:
        self._backend = backend
        self._log = log
        self._position = position
        self._filter = wanted
        self._results = results
        self._delivered = 0
        self._filtered = 0
        self._undecided = 0
        self._lost = 0
        self._overflows = 0
        self.closed = False

    def take(self) -> Sequence[CompletionPayload]:
        log = self._log
        while self._position < log.end:
            if (missed := log.start - self._position) > 0:
                self._lost += missed
                self._overflows += 1
                self._position = log.start
                _log.warning("a consumer fell behind the log's retention; %d completions passed it by", missed)
            begin = self._position - log.start
            entries = list(islice(log.entries, begin, begin + _BATCH))
            self._position += len(entries)
            batch = [self._dress(payload) for payload, facts in entries if self._admit(facts)]
            self._delivered += len(batch)
            if batch:
                return batch
        return ()

    def _admit(self, facts: Facts) -> bool:
        if self._filter is None:
            return True
        verdict = admits(self._filter, facts, self._filter.tag_key)
        if verdict is None:
            self._undecided += 1
        elif not verdict:
            self._filtered += 1
        return bool(verdict)

    def _dress(self, payload: CompletionPayload) -> CompletionPayload:
        if self._results or payload.payload_bytes is None:
            return payload
        return CompletionPayload(
            payload.execution_id, payload.outcome, None, payload.produced_at_ms, payload.flow_id, payload.cursor
        )

    async def ready(self) -> None:
        if self._position >= self._log.end:
            await self._log.signal.wait()

    def close(self) -> None:
        self.closed = True
        self._backend._forget(self)  # pyright: ignore[reportPrivateUsage]  # the two classes are one unit
        self._log.signal.wake()

    async def released(self) -> None:
        return

    @property
    def cursor(self) -> StreamCursor:
        return self._log.cursor(self._position)

    def stats(self) -> StreamStats:
        return StreamStats(
            delivered=self._delivered,
            buffered=self._log.end - max(self._position, self._log.start),
            filtered=self._filtered,
            undecided=self._undecided,
            lost=self._lost,
            overflows=self._overflows,
        )


@final
class MemoryBackend:
    """A backend within the process. Each ``emit`` reaches every stream once, in order, while the log keeps it.

    ``retention``: how many completions the log keeps; a consumer that falls further behind loses the oldest, visibly
    in ``stats().lost``. Usable from any loop; ``emit`` may be called from any thread.
    """

    def __init__(self, *, retention: int = 100_000, observer: Observer | None = None) -> None:
        if retention < 1:
            raise Validation("retention", "must be at least 1")
        self._records = _Log(retention)
        self._readers: set[_Reader] = set()
        self._observer = observer
        self._state = BackendState.IDLE
        self._pid = os.getpid()

    def emit(
        self,
        execution_id: str,
        outcome: str = "success",
        *,
        flow_id: str | None = None,
        namespace: str | None = None,
        tags: Mapping[str, str] | None = None,
        payload_bytes: bytes | None = None,
        produced_at_ms: int | None = None,
    ) -> CompletionPayload:
        """Announce a completion to every stream. Returns the payload as logged. Raises ``Validation`` for bad ids.

        ``produced_at_ms`` defaults to the wall clock. ``payload_bytes`` reaches streams that asked for results.
        """
        if self._state is BackendState.CLOSED:
            raise Unavailable("emit", "the backend is closed")
        log = self._records
        payload = CompletionPayload(
            ExecutionId(execution_id),
            outcome,
            payload_bytes,
            time.time_ns() // 1_000_000 if produced_at_ms is None else produced_at_ms,
            None if flow_id is None else FlowId(flow_id),
            log.cursor(log.end + 1),
        )
        log.entries.append((payload, (namespace, dict(tags or {}))))
        log.keep(
            ExecutionSnapshot(
                execution_id=payload.execution_id,
                namespace=namespace,
                flow_id=payload.flow_id,
                tags=MappingProxyType(dict(tags or {})),
                phase="terminal",
                terminal_outcome=outcome,
                completed_at_ms=payload.produced_at_ms,
                result=payload_bytes,
            )
        )
        log.end += 1
        log.signal.wake()
        return payload

    async def subscribe_completions(self, *, results: bool = False) -> Subscription:
        """A stream of what is emitted from now on. ``results``: payloads carry ``payload_bytes``."""
        return self._open(self._records.end, None, results)

    async def subscribe_completions_filtered(
        self,
        filter: CompletionFilter,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """The same, for what ``filter`` admits."""
        return self._open(self._records.end, filter, results)

    async def subscribe_completions_from(
        self,
        cursor: StreamCursor,
        filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """A stream of what was emitted after ``cursor``, within this backend object.

        Raises ``Validation`` for a cursor of another backend or another ``MemoryBackend``. Completions that the log
        no longer keeps are counted as lost.
        """
        log = self._records
        if cursor.is_empty:
            position = log.end
        elif cursor.is_beginning:
            position = log.start
        elif (at := cursor.stream_position) is None or at[0] != log.epoch or at[1] > log.end:
            raise Validation("cursor", "it does not belong to this memory backend, which keeps its log in this process")
        else:
            position = at[1]
        return self._open(position, filter, results)

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ExecutionSnapshot | None:
        """The execution as last emitted, or None if it never was (or is no longer kept). Raises ``Validation``."""
        (found,) = await self.describe_executions([execution_id], result=result)
        return found

    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The same for many; one answer for each id, in order."""
        if self._state is BackendState.CLOSED:
            raise Unavailable("describe_execution", "the backend is closed")
        found = [self._records.states.get(ExecutionId(execution_id)) for execution_id in execution_ids]
        if result:
            return found
        return [None if item is None else msgspec.structs.replace(item, result=None) for item in found]

    def _open(self, position: int, wanted: CompletionFilter | None, results: bool) -> Subscription:
        if self._state is BackendState.CLOSED:
            raise Unavailable("subscribe", "the backend is closed")
        if os.getpid() != self._pid:
            raise Unavailable("subscribe", "the backend was made before fork(); make a new one in the child process")
        narrowed = None if wanted is None or wanted.is_noop() else wanted
        reader = _Reader(self, self._records, position, narrowed, results)
        self._readers.add(reader)
        self._enter(BackendState.LIVE)
        return Subscription(reader, "memory")

    def _forget(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers:
            self._enter(BackendState.IDLE)

    def _enter(self, state: BackendState) -> None:
        if state is self._state or self._state is BackendState.CLOSED:
            return
        self._state = state
        if self._observer is not None:
            try:
                self._observer(BackendEvent("memory", state))
            except Exception:  # noqa: BLE001  # somebody else's code
                _log.exception("memory: the observer raised")

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        return BackendStats(state=self._state, streams=len(self._readers), received=self._records.end)

    async def aclose(self) -> None:
        """Refuse new streams and end the open ones; what they have in memory is still yielded."""
        self._enter(BackendState.CLOSED)
        for reader in tuple(self._readers):
            reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @override
    def __repr__(self) -> str:
        return f"<MemoryBackend {self._state.value}, {len(self._readers)} streams>"


if TYPE_CHECKING:
    _: type[ResumableCompletionBackend] = MemoryBackend
    _reader: type[ExecutionReader] = MemoryBackend
