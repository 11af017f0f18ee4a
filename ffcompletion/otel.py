"""Metrics through OpenTelemetry: what ``stats()`` tells, and the lag of what is delivered. Needs the extra ``otel``.

::

    with observed(backend, "app"):
        async with subscribe(backend) as stream:
            async for completion in metered(stream, "app", "worker"):
                ...

Only the API is needed here; where the application sets up no SDK, nothing is recorded. Counters are read when they are
collected, so a completion pays for the lag alone, and that is recorded at most once a millisecond.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, Self, final

from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.contract.stats import BackendState, BackendStats, StreamStats

try:
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter
except ImportError as _missing:
    raise Unavailable("metrics", f"{_missing.name} is not installed; pip install 'ffcompletion[otel]'") from _missing

__all__ = ["METRICS", "Metered", "metered", "observed"]

METRICS: Final[Mapping[str, tuple[str, str, str]]] = {
    # By the semantic conventions for messaging, where they have a name for it.
    "messaging.client.consumed.messages": ("counter", "{message}", "Completions handed to a stream's consumer"),
    "ffcompletion.lag": ("histogram", "s", "From the completion to its delivery, by the two machines' clocks"),
    "ffcompletion.stream.buffered": ("gauge", "{completion}", "Completions that wait in memory for a consumer"),
    "ffcompletion.stream.filtered": ("counter", "{completion}", "Completions that a filter did not admit"),
    "ffcompletion.stream.undecided": (
        "counter",
        "{completion}",
        "Completions withheld for want of anything to decide by",
    ),
    "ffcompletion.stream.lost": ("counter", "{completion}", "Completions announced and not delivered"),
    "ffcompletion.stream.overflows": ("counter", "{overflow}", "Times that a consumer was too slow for its buffer"),
    "ffcompletion.backend.received": ("counter", "{completion}", "Announcements or rows read from the server"),
    "ffcompletion.backend.malformed": ("counter", "{completion}", "Announcements or rows that are no completion"),
    "ffcompletion.backend.reconnects": ("counter", "{reconnect}", "Times that the live source was mended"),
    "ffcompletion.backend.interruptions": ("counter", "{interruption}", "Spans in which announcements may be missed"),
    "ffcompletion.backend.held": ("gauge", "{id}", "Ids that an unfinished transaction may still fill"),
    "ffcompletion.backend.held.age": ("gauge", "s", "Age of the oldest held id"),
    "ffcompletion.backend.streams": ("gauge", "{stream}", "Open streams"),
    "ffcompletion.backend.state": ("gauge", "{state}", "1 for the state that the backend is in, 0 for the others"),
}
"""Each metric's kind, unit and meaning, by name."""

# Recording one value costs more than yielding a completion does; in a flood a thousand a second are sample enough.
_RECORD_EVERY_NS: Final = 1_000_000
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_STREAM: Final[Mapping[str, Callable[[StreamStats], float]]] = {
    "messaging.client.consumed.messages": lambda stats: stats.delivered,
    "ffcompletion.stream.buffered": lambda stats: stats.buffered,
    "ffcompletion.stream.filtered": lambda stats: stats.filtered,
    "ffcompletion.stream.undecided": lambda stats: stats.undecided,
    "ffcompletion.stream.lost": lambda stats: stats.lost,
    "ffcompletion.stream.overflows": lambda stats: stats.overflows,
}
_BACKEND: Final[Mapping[str, Callable[[BackendStats], float]]] = {
    "ffcompletion.backend.received": lambda stats: stats.received,
    "ffcompletion.backend.malformed": lambda stats: stats.malformed,
    "ffcompletion.backend.reconnects": lambda stats: stats.reconnects,
    "ffcompletion.backend.interruptions": lambda stats: stats.gaps,
    "ffcompletion.backend.held": lambda stats: stats.held,
    "ffcompletion.backend.held.age": lambda stats: stats.held_since_s,
    "ffcompletion.backend.streams": lambda stats: stats.streams,
}


class _Counting(Protocol):
    def stats(self, /) -> BackendStats: ...


@final
class _Registry:
    """What is observed with one meter. Counters of streams that are gone go on counting, so that they never fall."""

    def __init__(self, meter: Meter) -> None:
        self.backends: dict[str, _Counting] = {}
        self.streams: dict[tuple[str, str], weakref.WeakSet[Metered]] = {}
        self.past: dict[tuple[str, str, str], float] = {}
        kind, unit, meaning = METRICS["ffcompletion.lag"]
        self.lag: Histogram = meter.create_histogram(
            "ffcompletion.lag", unit, meaning, explicit_bucket_boundaries_advisory=_BUCKETS
        )
        for name, (kind, unit, meaning) in METRICS.items():
            callbacks = [self._callback(name)]
            if kind == "counter":
                meter.create_observable_counter(name, callbacks, unit, meaning)
            elif kind == "gauge":
                meter.create_observable_gauge(name, callbacks, unit, meaning)

    def _callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        if name == "ffcompletion.backend.state":
            return lambda _: self._states()
        read, of_stream = _BACKEND.get(name), _STREAM.get(name)
        if read is not None:
            return lambda _: [
                Observation(read(backend.stats()), {"ffcompletion.backend": label})
                for label, backend in tuple(self.backends.items())
            ]
        if of_stream is not None:
            return lambda _: self._of_streams(name, of_stream)
        return lambda _: ()

    def _of_streams(self, name: str, read: Callable[[StreamStats], float]) -> list[Observation]:
        kept = METRICS[name][0] == "counter"
        return [
            Observation(
                sum(read(stream.stats()) for stream in tuple(streams))
                + (self.past.get((*labels, name), 0.0) if kept else 0.0),
                {
                    "messaging.system": "ffcompletion",
                    "ffcompletion.backend": labels[0],
                    "ffcompletion.stream": labels[1],
                },
            )
            for labels, streams in tuple(self.streams.items())
        ]

    def _states(self) -> list[Observation]:
        return [
            Observation(
                int(backend.stats().state is state), {"ffcompletion.backend": label, "ffcompletion.state": state.value}
            )
            for label, backend in tuple(self.backends.items())
            for state in BackendState
        ]

    def retire(self, labels: tuple[str, str], stats: StreamStats) -> None:
        for name, read in _STREAM.items():
            key = (*labels, name)
            self.past[key] = self.past.get(key, 0.0) + read(stats)


_registries: weakref.WeakKeyDictionary[MeterProvider, _Registry] = weakref.WeakKeyDictionary()
_default: list[_Registry] = []


def _registry(provider: MeterProvider | None) -> _Registry:
    if provider is None:
        if not _default:
            _default.append(_Registry(get_meter("ffcompletion")))
        return _default[0]
    found = _registries.get(provider)
    if found is None:
        found = _registries[provider] = _Registry(provider.get_meter("ffcompletion"))
    return found


@contextmanager
def observed(backend: _Counting, name: str, *, provider: MeterProvider | None = None) -> Generator[None]:
    """The backend's counters as metrics, labelled with ``name``, for the length of the block."""
    registry = _registry(provider)
    registry.backends[name] = backend
    try:
        yield
    finally:
        registry.backends.pop(name, None)


def metered(stream: CompletionStream, backend: str, name: str, *, provider: MeterProvider | None = None) -> Metered:
    """The same stream, whose counters and lag are metrics, labelled with the backend's name and its own.

    Streams of the same names are added up. Closing it closes the stream.
    """
    return Metered(stream, (backend, name), _registry(provider))


@final
class Metered(AsyncClosing):
    """What ``metered`` returns: a stream."""

    def __init__(self, stream: CompletionStream, labels: tuple[str, str], registry: _Registry) -> None:
        self._stream = stream
        self._labels = labels
        self._registry = registry
        self._record = registry.lag.record
        self._attributes = {"ffcompletion.backend": labels[0], "ffcompletion.stream": labels[1]}
        self._next = stream.__anext__
        self._recorded_ns = 0
        self._delivered = 0
        self._closed = False
        registry.streams.setdefault(labels, weakref.WeakSet()).add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        """The next completion, as the stream has it."""
        completion = await self._next()
        self._delivered += 1
        now = time.time_ns()
        if now - self._recorded_ns >= _RECORD_EVERY_NS and completion.produced_at_ms:
            self._recorded_ns = now
            self._record(max(0.0, now / 1e9 - completion.produced_at_ms / 1e3), self._attributes)
        return completion

    def stats(self) -> StreamStats:
        """The stream's own counters; of one that has none, what was delivered through here."""
        stats: object = getattr(self._stream, "stats", lambda: None)()
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
