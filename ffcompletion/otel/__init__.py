"""Metrics through OpenTelemetry: what ``stats()`` tells, and the lag of what is delivered. Needs the extra ``otel``.

::

    with observed(backend, "app"):
        async with subscribe(backend) as stream:
            async for completion in metered(stream, "app", "worker"):
                ...

Only the API is needed here; where the application sets up no SDK, nothing is recorded. Everything that ``stats()`` tells is
read when it is collected and costs a completion nothing; how long each took to arrive is recorded at most once a
millisecond, and a completion in between pays for a look at the clock.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Final, Self, TypeVar, final

from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.contract.stats import StreamStats

try:
    from opentelemetry.metrics import MeterProvider
except ImportError as _missing:
    raise Unavailable("metrics", f"{_missing.name} is not installed; pip install 'ffcompletion[otel]'") from _missing

from ffcompletion.otel.registry import METRICS, Counting, Lagging, Registry, registry_of, stream_labels

__all__ = ["METRICS", "Metered", "metered", "observed", "observed_lag"]

# Recording one value costs more than yielding a completion does; in a flood a thousand a second are sample enough.
_RECORD_EVERY_NS: Final = 1_000_000
_K = TypeVar("_K")
_V = TypeVar("_V")
_clock_ns: Final = time.monotonic_ns


@contextmanager
def observed(backend: Counting, name: str, *, provider: MeterProvider | None = None) -> Generator[None]:
    """The backend's counters as metrics, labelled with ``name``, for the length of the block."""
    with _listed(registry_of(provider).backends, name, backend):
        yield


@contextmanager
def observed_lag(source: Lagging, backend: str, name: str, *, provider: MeterProvider | None = None) -> Generator[None]:
    """How far a worker is behind, as a metric of the stream ``name``, for the length of the block.

    ``source`` has a ``lag``, as what ``checkpointed`` gives has inside its own ``async with``.
    """
    with _listed(registry_of(provider).lagging, (backend, name), source):
        yield


@contextmanager
def _listed(table: dict[_K, list[_V]], key: _K, source: _V) -> Generator[None]:
    """One more of this name for the length of the block, and none of the others less after it."""
    table.setdefault(key, []).append(source)
    try:
        yield
    finally:
        left = table[key]
        del left[next(at for at, each in enumerate(left) if each is source)]
        if not left:
            del table[key]


def metered(stream: CompletionStream, backend: str, name: str, *, provider: MeterProvider | None = None) -> Metered:
    """The same stream, whose counters and lag are metrics, labelled with the backend's name and its own.

    Streams of the same names are added up. Closing it closes the stream.
    """
    return Metered(stream, (backend, name), registry_of(provider))


@final
class Metered(AsyncClosing):
    """What ``metered`` returns: a stream."""

    __slots__ = ("__weakref__", "_attributes", "_closed", "_delivered", "_due_ns", "_labels", "_next", "_record",
                 "_registry", "_stream")  # fmt: skip

    def __init__(self, stream: CompletionStream, labels: tuple[str, str], registry: Registry) -> None:
        self._stream = stream
        self._labels = labels
        self._registry = registry
        self._record = registry.lag.record
        self._attributes = stream_labels(labels)
        self._next = stream.__anext__ if isinstance(_stats_of(stream), StreamStats) else self._counted
        # When the next value may be recorded; never, while nobody would keep it.
        self._due_ns: int | None = 0 if registry.recording else None
        self._delivered = 0
        self._closed = False
        registry.streams.setdefault(labels, weakref.WeakSet()).add(self)

    def __aiter__(self) -> Self:
        return self

    # No coroutine of our own around the stream's: it would cost several times as much as everything else here.
    def __anext__(self) -> Coroutine[object, object, CompletionPayload]:
        """The next completion, as the stream has it."""
        due_ns = self._due_ns
        if due_ns is None:
            return self._next()
        now_ns = _clock_ns()
        if now_ns < due_ns:
            return self._next()
        self._due_ns = now_ns + _RECORD_EVERY_NS
        return self._recorded()

    async def _recorded(self) -> CompletionPayload:
        completion = await self._next()
        if completion.produced_at_ms:
            self._record(max(0.0, time.time() - completion.produced_at_ms / 1e3), self._attributes)
        return completion

    async def _counted(self) -> CompletionPayload:
        completion = await self._stream.__anext__()
        self._delivered += 1
        return completion

    def record_from_now_on(self) -> None:
        """Somebody keeps what is recorded."""
        if self._due_ns is None:
            self._due_ns = 0

    def stats(self) -> StreamStats:
        """The stream's own counters; of one that has none, what was delivered through here."""
        stats = _stats_of(self._stream)
        return stats if isinstance(stats, StreamStats) else StreamStats(delivered=self._delivered)

    @property
    def cursor(self) -> StreamCursor | None:
        """The stream's, where it has one."""
        cursor: object = getattr(self._stream, "cursor", None)
        return cursor if isinstance(cursor, StreamCursor) else None

    @override
    async def aclose(self) -> None:
        """Close the stream. Idempotent."""
        try:
            await self._stream.aclose()
        finally:
            if not self._closed:
                self._closed = True
                self._registry.streams[self._labels].discard(self)
                self._registry.retire(self._labels, self.stats())


def _stats_of(stream: CompletionStream) -> object:
    found: object = getattr(stream, "stats", lambda: None)()
    return found
