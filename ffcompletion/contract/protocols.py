"""The contract between whoever announces completions and whoever waits for them. These docstrings are normative.

Conformance is by structure: a class with these methods is a backend, whether or not it inherits from anything here.
There is no publish method, and none is ever added: announcing belongs inside the producer's own transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from typing_extensions import override

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendStats, StreamStats

__all__ = [
    "Backend",
    "Batched",
    "CompletionBackend",
    "CompletionFilter",
    "CompletionStream",
    "ExecutionReader",
    "FlowBackend",
    "FlowReader",
    "ResumableBackend",
    "ResumableCompletionBackend",
    "Subscription",
]


@runtime_checkable
class CompletionStream(Protocol):
    """What one subscribe call returns. ``ffcompletion.stream_of`` makes one of an async generator of payloads.

    It yields ``CompletionPayload``, never an error value, until its consumer closes it; faults after set-up are the
    backend's to mend. An end that the consumer did not ask for is a defect of the backend.
    """

    def __aiter__(self, /) -> AsyncIterator[CompletionPayload]:
        """The stream itself."""
        ...

    async def __anext__(self, /) -> CompletionPayload:
        """The next completion, however long it takes.

        Raises ``StopAsyncIteration`` once the stream is closed, also in a task that was waiting when it was closed.
        Cancelling the wait loses nothing: the next call goes on where this one was.
        """
        ...

    async def aclose(self, /) -> None:
        """Release everything the stream holds on the server. Bounded in time; closing twice is fine."""
        ...


@runtime_checkable
class Subscription(CompletionStream, Protocol):
    """A stream that can be asked how it fares and where it stands, and closes at the end of an ``async with`` block.

    What every backend of ``connect`` hands out.
    """

    @property
    def cursor(self, /) -> StreamCursor | None:
        """Where to resume after what has been yielded so far; None on backends that cannot resume."""
        ...

    def stats(self, /) -> StreamStats:
        """Counters of this stream, now."""
        ...

    async def __aenter__(self, /) -> Self:
        """The stream itself."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """``aclose()``."""
        ...


@runtime_checkable
class Batched(Subscription, Protocol):
    """A subscription that can be read many at a time, and on another thread; that of our own backends."""

    async def next_batch(self, /) -> Iterator[CompletionPayload]:
        """The next completions, once there are any, to be taken from this iterator, on any thread.

        Each counts as held until it is taken, and as yielded from then on: ``stats()`` and ``cursor`` keep account. All
        are taken before this is called again. Raises ``StopAsyncIteration`` once the stream is closed.
        """
        ...


@runtime_checkable
class CompletionFilter(Protocol):
    """Whose completions a stream is for. ``ScannerFilter`` is the one that every backend understands best."""

    @property
    def tag_key(self) -> str | None:
        """The tag whose value ``matches`` wants to see; None if tags do not matter."""
        ...

    def is_noop(self, /) -> bool:
        """Whether everything is admitted; then the subscription is exactly an unfiltered one."""
        ...

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """Whether an execution is admitted.

        ``core_namespace``: the namespace in its core record, None if it has none. ``tag_value``: the value of its tag
        ``tag_key``, None if it has no such tag. Must be pure and fast: it runs once for each completion. What it
        raises counts as "no" (a filter fails closed).
        """
        ...


@runtime_checkable
class CompletionBackend(Protocol):
    """Announces completions. The contract, in seven clauses:

    1. ``subscribe_completions`` does the set-up and returns a stream. **When it returns, the subscription is live**:
       a completion that commits after that moment is delivered. A set-up that fails raises ``EngineError`` there and
       then, within a bounded time. What ends without being announced (an engine may cancel in silence) is found in
       stored state, a little later: our own networked backends look every ``reconcile_interval``, 15 s by default.
    2. The stream yields payloads until its consumer closes it. The backend reconnects with capped, jittered backoff,
       for ever, and says so through its log, ``stats()`` and observer.
    3. Every call is independent. Closing a stream (``aclose()``, leaving ``async with``, or dropping it, then with a
       ``ResourceWarning``) releases what it held on the server. Closing twice, or while another task awaits the next
       item, is fine: that task gets ``StopAsyncIteration``.
    4. Buffers are bounded. What happens to a slow consumer is per backend and visible in ``stats()``; one slow
       consumer never delays another.
    5. ``subscribe_completions_filtered(filter)``: the same, but what the filter does not match never reaches the
       stream. If the backend cannot tell, it does not deliver, counts it, and tries again. A no-op filter is exactly
       ``subscribe_completions()``. A backend without filtering raises ``Unavailable`` for any other filter; it never
       returns an unfiltered stream.
    6. There is no publish method.
    7. Channel and table names are the backend's own business.

    A class that *inherits* this Protocol gets clause 5's refusing default for free.
    """

    async def subscribe_completions(self, /) -> CompletionStream:
        """A live stream of every completion. Raises ``EngineError`` if it cannot be set up, within a bounded time."""
        ...

    async def subscribe_completions_filtered(self, filter: CompletionFilter, /) -> CompletionStream:  # noqa: A002  # the contract's own word
        """A live stream of the completions that ``filter`` admits.

        This default serves a no-op filter with ``subscribe_completions()`` and raises ``Unavailable`` for any other.
        """
        # Nothing but a plain yes: the coroutine of an `async def is_noop` would pass for one.
        if filter.is_noop() is True:
            return await self.subscribe_completions()
        raise Unavailable(
            "subscribe_completions_filtered", f"{type(self).__name__} does not implement filtering; filter in the loop"
        )


@runtime_checkable
class ResumableCompletionBackend(CompletionBackend, Protocol):
    """A backend that keeps a log, so that a stream can go on where an earlier one stopped.

    Its payloads carry a ``cursor``, and its streams may have one: resuming from ``stream.cursor``, at any moment, yields
    everything that the stream has not yielded yet and its filter admits, and may repeat what it has. At any moment:
    while it catches up, while it joins what is live, after an overflow, beside completions that its filter does not
    admit, and once it is closed.
    """

    async def subscribe_completions_from(
        self,
        cursor: StreamCursor,
        filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
        /,
    ) -> CompletionStream:
        """A stream of every completion after ``cursor``, stored and then live, without loss in between.

        ``StreamCursor.beginning()``: all that is left; ``StreamCursor.empty()``: from now. Raises ``Validation`` for
        a cursor of another backend, ``CursorExpired`` where completions after it are known to be gone.
        """
        ...


@runtime_checkable
class ExecutionReader(Protocol):
    """Reads the stored state of executions; what a waiter asks behind the announcement."""

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ExecutionSnapshot | None:
        """The execution as stored now, or None if there is no such record. ``result``: fetch the stored result too.

        Raises ``Validation`` for a malformed id, ``Transport`` or ``Unavailable`` if the server cannot be asked.
        """
        ...

    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The same for many, in one exchange with the server; one answer for each id, in order."""
        ...


@runtime_checkable
class FlowReader(Protocol):
    """Reads who belongs to a flow."""

    async def flow_members(self, flow_id: str, /) -> Sequence[ExecutionId]:
        """The flow's members as stored now, in no order; empty if the flow is unknown, or has none.

        Raises ``Validation`` for a malformed id, ``Transport`` or ``Unavailable`` if the server cannot be asked; the
        servers' readers also for a flow of more than 100,000.
        """
        ...


@runtime_checkable
class FlowBackend(CompletionBackend, ExecutionReader, FlowReader, Protocol):
    """A backend that can be asked for a flow's members and their state: what ``wait_for_flow`` needs."""


@runtime_checkable
class Backend(FlowBackend, Protocol):
    """What ``connect`` returns, whatever the server: all that each of our backends can do.

    Its streams are ``Subscription``s, and carry stored results where ``results`` asks for them; it reads the stored
    state of executions and flows, counts, and is closed at the end of an ``async with`` block.
    """

    @override
    async def subscribe_completions(self, /, *, results: bool = False) -> Subscription:
        """A live stream of every completion. ``results``: payloads carry the stored result, as ``payload_bytes``."""
        ...

    @override
    async def subscribe_completions_filtered(
        self,
        filter: CompletionFilter,  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """The same, for what ``filter`` admits."""
        ...

    async def ping(self, /) -> float:
        """Ask the server for a sign of life, also where no stream is open; the seconds that took, connecting included.

        For health checks. It says that the server can be asked; ``stats().state`` says whether streams are live. Raises
        ``Transport`` or ``Unavailable``, naming the cause, within ``setup_timeout``.
        """
        ...

    def stats(self, /) -> BackendStats:
        """Counters of this backend, now."""
        ...

    async def aclose(self, /) -> None:
        """Close every stream and release everything on the server, within about a second. Idempotent."""
        ...

    async def __aenter__(self, /) -> Self:
        """The backend itself."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """``aclose()``."""
        ...


@runtime_checkable
class ResumableBackend(Backend, ResumableCompletionBackend, Protocol):
    """A backend of ``connect`` that keeps a log: in this process (``memory://``), or in the outbox (Postgres).

    ``isinstance(backend, ResumableBackend)`` tells, at run time and to every type checker.
    """

    @override
    async def subscribe_completions_from(
        self,
        cursor: StreamCursor,
        filter: CompletionFilter | None = None,  # the contract's own word
        /,
        *,
        results: bool = False,
    ) -> Subscription:
        """Every completion after ``cursor``, stored and then live. ``results``: payloads carry the stored result."""
        ...
