"""What is observed with one meter, and how each metric is read: at collection, from ``stats()``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, TypeVar, final

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter,
    get_meter_provider,
)

from ffcompletion.contract.stats import BackendState, BackendStats, Lag, StreamStats
from ffcompletion.foreign.calling import Culprit, Failed, contained
from ffcompletion.foreign.logs import logger

__all__ = ["METRICS", "Counting", "Lagging", "Observed", "Registry", "registry_of", "stream_labels"]

METRICS: Final[Mapping[str, tuple[str, str, str]]] = {
    # By the semantic conventions for messaging, where they have a name for it.
    "messaging.client.consumed.messages": ("counter", "{message}", "Completions handed to a stream's consumer"),
    "ffcompletion.lag": ("histogram", "s", "From the completion to its delivery, by the two machines' clocks"),
    "ffcompletion.stream.lag": ("gauge", "{completion}", "Completions that a consumer is behind"),
    "ffcompletion.stream.lag.age": ("gauge", "s", "Age of the oldest completion that a consumer has still to handle"),
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


_S = TypeVar("_S")
_T = TypeVar("_T")


class Counting(Protocol):
    """A backend, as far as it is observed."""

    def stats(self, /) -> BackendStats:
        """Its counters."""
        ...


class Lagging(Protocol):
    """Whatever can be behind."""

    @property
    def lag(self) -> Lag:
        """How far."""
        ...


class Observed(Protocol):
    """A metered stream, as far as it is observed. Hashed by identity."""

    def stats(self, /) -> StreamStats:
        """Its counters."""
        ...

    def record_from_now_on(self, /) -> None:
        """Somebody keeps what is recorded."""
        ...


@final
class Registry:
    """What is observed with one meter. Counters of streams that are gone go on counting, so that they never fall."""

    def __init__(self, meter: Meter, *, recording: bool) -> None:
        self.recording: bool = recording
        self._culprit = Culprit("what is observed", logger("ffcompletion.otel"))
        self.lagging: dict[tuple[str, str], list[Lagging]] = {}
        # Of those of one name the last counts.
        self.backends: dict[str, list[Counting]] = {}
        self.streams: dict[tuple[str, str], weakref.WeakSet[Observed]] = {}
        self.past: dict[tuple[str, str, str], float] = {}
        _, unit, meaning = METRICS["ffcompletion.lag"]
        self.lag: Histogram = meter.create_histogram(
            "ffcompletion.lag", unit, meaning, explicit_bucket_boundaries_advisory=_BUCKETS
        )
        for name, (kind, unit, meaning) in METRICS.items():
            if kind == "counter":
                meter.create_observable_counter(name, [self._callback(name)], unit, meaning)
            elif kind == "gauge":
                meter.create_observable_gauge(name, [self._callback(name)], unit, meaning)

    def _callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        if name == "ffcompletion.backend.state":
            return lambda _: self._states()
        if name == "ffcompletion.stream.lag":
            return lambda _: self._lags(lambda lags: sum(lag.completions for lag in lags))
        if name == "ffcompletion.stream.lag.age":
            return lambda _: self._lags(_oldest)
        read, of_stream = _BACKEND.get(name), _STREAM.get(name)
        if read is not None:
            return lambda _: [
                Observation(value, {"ffcompletion.backend": label})
                for label, backends in tuple(self.backends.items())
                for value in self._each(lambda backend: read(backend.stats()), backends[-1:])
            ]
        if of_stream is not None:
            return lambda _: self._of_streams(name, of_stream)
        return lambda _: ()

    def _lags(self, read: Callable[[list[Lag]], float | None]) -> list[Observation]:
        # The application's SDK may have been set up later than we were: it has just asked.
        self._record_from_now_on()
        found = {labels: self._each(_lag_of_stream, streams) for labels, streams in tuple(self.streams.items())}
        for labels, sources in tuple(self.lagging.items()):
            found.setdefault(labels, []).extend(self._each(_lag_of, sources))
        return [
            Observation(value, stream_labels(labels))
            for labels, lags in found.items()
            if (value := read(lags)) is not None
        ]

    def _each(self, read: Callable[[_S], _T], sources: Iterable[_S]) -> list[_T]:
        """Of each that answers: one that does not takes nobody else's numbers away."""
        answers = [contained(self._culprit, read, source) for source in tuple(sources)]
        return [answer for answer in answers if not isinstance(answer, Failed)]

    def _record_from_now_on(self) -> None:
        if not self.recording:
            self.recording = True
            for streams in tuple(self.streams.values()):
                for stream in tuple(streams):
                    stream.record_from_now_on()

    def _of_streams(self, name: str, read: Callable[[StreamStats], float]) -> list[Observation]:
        kept = METRICS[name][0] == "counter"
        return [
            Observation(
                sum(self._each(lambda stream: read(stream.stats()), streams))
                + (self.past.get((*labels, name), 0.0) if kept else 0.0),
                {"messaging.system": "ffcompletion", **stream_labels(labels)},
            )
            for labels, streams in tuple(self.streams.items())
        ]

    def _states(self) -> list[Observation]:
        return [
            Observation(int(now is state), {"ffcompletion.backend": label, "ffcompletion.state": state.value})
            for label, backends in tuple(self.backends.items())
            for now in self._each(lambda backend: backend.stats().state, backends[-1:])
            for state in BackendState
        ]

    def retire(self, labels: tuple[str, str], stats: StreamStats) -> None:
        for name, read in _STREAM.items():
            key = (*labels, name)
            self.past[key] = self.past.get(key, 0.0) + read(stats)


def _lag_of_stream(stream: Observed) -> Lag:
    return _checked(stream.stats().lag)


def _lag_of(source: Lagging) -> Lag:
    return _checked(source.lag)


def _checked(lag: object) -> Lag:
    if isinstance(lag, Lag):
        return lag
    raise TypeError("no Lag")


def stream_labels(labels: tuple[str, str]) -> dict[str, str]:
    return {"ffcompletion.backend": labels[0], "ffcompletion.stream": labels[1]}


def _oldest(lags: list[Lag]) -> float | None:
    """None where it is not known of any that waits, and where there is none."""
    ages = [lag.seconds for lag in lags if lag.seconds is not None]
    return max(ages, default=None)


def _records(provider: MeterProvider) -> bool:
    # What the API itself brings stands for an SDK that is not there, or not yet.
    return not type(provider).__module__.startswith("opentelemetry.metrics")


_registries: weakref.WeakKeyDictionary[MeterProvider, Registry] = weakref.WeakKeyDictionary()
_default: list[Registry] = []


def registry_of(provider: MeterProvider | None) -> Registry:
    if provider is None:
        if not _default:
            _default.append(Registry(get_meter("ffcompletion"), recording=_records(get_meter_provider())))
        return _default[0]
    found = _registries.get(provider)
    if found is None:
        meter = provider.get_meter("ffcompletion")
        found = _registries[provider] = Registry(meter, recording=_records(provider))
    return found
