"""Completions within one process: for tests, for development, and for programs that are their own engine.

A log in memory; every stream is a position in it, so nobody waits for a slow consumer. ``emit`` is on this class
alone, because here the backend is the producer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

import msgspec
from typing_extensions import override

from ffcompletion.backends.memory.faults import Faults
from ffcompletion.backends.memory.given import ms_of, namespace_of, outcome_of, result_of, tags_of
from ffcompletion.backends.memory.log import Log, Reader, log
from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionFilter, ResumableBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendEvent, BackendState, BackendStats, Observer
from ffcompletion.delivery.stream import Subscription
from ffcompletion.foreign.filters import checked_filter
from ffcompletion.foreign.observers import contained_observer

__all__ = ["MemoryBackend"]


@final
class MemoryBackend(AsyncClosing):
    """A backend within the process. Each ``emit`` reaches every stream once, in order, while the log keeps it.

    ``retention``: how many completions the log keeps; a consumer that falls further behind loses the oldest, visibly
    in ``stats().lost``. Usable from any loop; ``emit`` may be called from any thread.

    - ``buffer_size``: completions that wait for one consumer; a stream that has more to hand out is ``catching_up``, and
      the log keeps the rest for it.
    - ``setup_timeout``: seconds within which subscribing succeeds or raises.
    - ``observer``: told of each change of state.
    """

    cursor_prefix: Final = 0x01
    """The first byte of its cursors."""

    def __init__(
        self,
        *,
        retention: int = 100_000,
        buffer_size: int = 10_000,
        setup_timeout: float = 8.0,
        observer: Observer | None = None,
    ) -> None:
        self._buffer_size = check_count("buffer_size", buffer_size)
        self._setup_s = check_seconds("setup_timeout", setup_timeout, above_zero=True)
        self._records = Log(check_count("retention", retention))
        self._readers: set[Reader] = set()
        self._observer = contained_observer(observer, log)
        self._state = BackendState.IDLE
        self._pid = os.getpid()
        self.faults: Faults = Faults(self._connected)
        """For unit tests: lose the connection, be slow, fail to answer, come back."""

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
        """Announce a completion to every stream. Returns the payload as logged. Raises ``Validation`` for bad ids,
        and for what no server could hold: text that is none, a time that is no whole number, a result that is no bytes.

        ``produced_at_ms`` defaults to the wall clock. ``payload_bytes`` reaches streams that asked for results.
        """
        if self._state is BackendState.CLOSED:
            raise Unavailable("emit", "the backend is closed")
        namespace, tags, payload_bytes = namespace_of(namespace), tags_of(tags), result_of(payload_bytes)
        outcome = outcome_of(outcome)
        produced_at_ms = time.time_ns() // 1_000_000 if produced_at_ms is None else ms_of(produced_at_ms)
        records = self._records
        submitted = records.states.get(ExecutionId(execution_id))
        if submitted is not None and not submitted.is_terminal:
            # What was said when it was submitted holds, unless it is said anew.
            namespace = submitted.namespace if namespace is None else namespace
            flow_id = submitted.flow_id if flow_id is None else flow_id
            tags = submitted.tags if tags is None else tags
        with records.lock:
            payload = CompletionPayload(
                ExecutionId(execution_id),
                outcome,
                payload_bytes,
                produced_at_ms,
                None if flow_id is None else FlowId(flow_id),
                records.cursor(records.end + 1),
            )
            records.append((payload, (namespace, dict(tags or {}))))
            records.keep(
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
        records.signal.wake()
        return payload

    def submit(
        self,
        execution_id: str,
        *,
        flow_id: str | None = None,
        namespace: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ExecutionSnapshot:
        """Record an execution that has not finished, or runs again: nothing is announced, but it can be asked for.

        Returns the record, whose phase is ``submitted``. Raises ``Validation`` for bad ids.
        """
        if self._state is BackendState.CLOSED:
            raise Unavailable("submit", "the backend is closed")
        namespace, tags = namespace_of(namespace), tags_of(tags)
        snapshot = ExecutionSnapshot(
            execution_id=ExecutionId(execution_id),
            namespace=namespace,
            flow_id=None if flow_id is None else FlowId(flow_id),
            tags=MappingProxyType(dict(tags or {})),
            phase="submitted",
        )
        with self._records.lock:
            self._records.keep(snapshot)
        return snapshot

    def finish(
        self, execution_id: str, outcome: str = "success", *, after: float = 0.0, payload_bytes: bytes | None = None
    ) -> None:
        """Let what was submitted finish, ``after`` so many seconds: as ``emit`` then would, on the running loop.

        Nothing happens if the backend has been closed by then. Raises ``Validation`` for bad ids and seconds.
        """
        id_, after_s = ExecutionId(execution_id), check_seconds("after", after)
        outcome, payload_bytes = outcome_of(outcome), result_of(payload_bytes)

        def emit() -> None:
            if self._state is not BackendState.CLOSED:
                self.emit(id_, outcome, payload_bytes=payload_bytes)

        running_loop("finish").call_later(after_s, emit)

    async def subscribe_completions(self, *, results: bool = False) -> Subscription:
        """A stream of what is emitted from now on. ``results``: payloads carry ``payload_bytes``."""
        await self._answer("subscribe")
        return self._open(self._records.end, None, results)

    async def subscribe_completions_filtered(
        self,
        filter: CompletionFilter,  # noqa: A002  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """The same, for what ``filter`` admits."""
        await self._answer("subscribe")
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
        await self._answer("subscribe")
        records = self._records
        if cursor.is_empty:
            position = records.end
        elif cursor.is_beginning:
            position = records.start
        elif (at := cursor.stream_position) is None or at[0] != records.epoch or at[1] > records.end:
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
        """The same for many; one answer for each id, in order. Raises ``Unavailable`` once the backend is closed."""
        if self._state is BackendState.CLOSED:
            raise Unavailable("describe_execution", "the backend is closed")
        await self._answer("describe_execution")
        found = [self._records.states.get(ExecutionId(execution_id)) for execution_id in execution_ids]
        if result:
            return found
        return [None if item is None else msgspec.structs.replace(item, result=None) for item in found]

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The executions of the flow that were submitted or emitted and are still kept. Raises ``Validation``."""
        if self._state is BackendState.CLOSED:
            raise Unavailable("flow_members", "the backend is closed")
        flow = FlowId(flow_id)
        await self._answer("flow_members")
        with self._records.lock:
            return [id_ for id_, state in self._records.states.items() if state.flow_id == flow]

    async def _answer(self, op: str) -> None:
        running_loop(op)
        await self.faults.answer(self._setup_s)

    async def ping(self, /) -> float:
        """Seconds until it answers: what its ``faults`` say. Raises what they say, ``Unavailable`` once it is closed."""
        if self._state is BackendState.CLOSED:
            raise Unavailable("ping", "the backend is closed")
        began = time.monotonic()
        await self._answer("ping")
        return time.monotonic() - began

    def _open(self, position: int, wanted: CompletionFilter | None, results: bool) -> Subscription:
        if self._state is BackendState.CLOSED:
            raise Unavailable("subscribe", "the backend is closed")
        if os.getpid() != self._pid:
            raise Unavailable("subscribe", "the backend was made before fork(); make a new one in the child process")
        narrowed = checked_filter(wanted)
        reader = Reader(self._records, position, narrowed, results, self._buffer_size, self._forget)
        self._readers.add(reader)
        self._enter(BackendState.LIVE)
        return Subscription(reader, "memory")

    def _connected(self, connected: bool) -> None:
        self._records.connected = connected
        if self._readers:
            self._enter(BackendState.LIVE if connected else BackendState.RECONNECTING)
        self._records.signal.wake()

    def _forget(self, reader: Reader) -> None:
        self._readers.discard(reader)
        if not self._readers:
            self._enter(BackendState.IDLE)

    def _enter(self, state: BackendState) -> None:
        if state is self._state or self._state is BackendState.CLOSED:
            return
        self._state = state
        self._observer(BackendEvent("memory", state))

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        return BackendStats(state=self._state, streams=len(self._readers), received=self._records.end)

    @override
    async def aclose(self) -> None:
        """Refuse new streams and end the open ones; what they have in memory is still yielded."""
        self._enter(BackendState.CLOSED)
        for reader in tuple(self._readers):
            reader.abort()

    @override
    def __repr__(self) -> str:
        return f"<MemoryBackend {self._state.value}, {len(self._readers)} streams>"


if TYPE_CHECKING:
    _: type[ResumableBackend] = MemoryBackend
