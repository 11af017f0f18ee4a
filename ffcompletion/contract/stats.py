"""Counters that streams and backends answer ``stats()`` with, and the events an observer is told of."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import final

import msgspec

__all__ = ["BackendEvent", "BackendState", "BackendStats", "Lag", "Observer", "StreamStats", "seconds_since"]


def seconds_since(produced_at_ms: int) -> float | None:
    """How long ago that was, by our clock; None for 0, which is no time."""
    return max(0.0, time.time() - produced_at_ms / 1_000) if produced_at_ms else None


@final
class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer is behind what its backend knows of. Immutable.

    A backend that is not connected knows of nothing new: look at ``stats().state`` beside it.
    """

    completions: int = 0
    """How many are still to be handled. At the most so many, while a stream reads stored ones: what its filter will not
    admit is among them."""
    seconds: float | None = 0.0
    """How long ago the oldest of them was produced, by the server's clock against ours; how long it has waited here, where
    the wire has no time (Valkey). None where it is not known yet; 0 where nothing waits."""


@final
class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """One stream, now. What was announced to it = delivered + buffered + filtered + undecided + lost.

    While it is ``catching_up``, what it has yet to read is none of these: ``lag`` counts it.
    """

    delivered: int = 0
    """Completions handed to the consumer."""
    buffered: int = 0
    """Completions waiting in memory for the consumer; at most ``buffer_size``."""
    filtered: int = 0
    """Completions that its filter did not admit."""
    undecided: int = 0
    """Completions withheld because the server held nothing to decide by (no core record, no such tag)."""
    lost: int = 0
    """Completions announced to it and not delivered: always 0 where the backend's table promises it."""
    overflows: int = 0
    """How often the consumer was too slow for its buffer."""
    catching_up: bool = False
    """Whether it is reading stored completions at its own pace rather than the live signal."""
    lag: Lag = Lag()
    """How far its consumer is behind."""


class BackendState(StrEnum):
    """Where a backend's live source stands."""

    IDLE = "idle"
    """No stream is open, so nothing is held on the server."""
    CONNECTING = "connecting"
    LIVE = "live"
    """Announcements arrive as they happen."""
    POLLING = "polling"
    """The live signal does not arrive (pooler, replica), so stored completions are polled; nothing is lost."""
    RECONNECTING = "reconnecting"
    """The connection broke; attempts go on with backoff until it is back."""
    CLOSED = "closed"


@final
class BackendStats(msgspec.Struct, frozen=True, kw_only=True):
    """One backend, now; counters run since it was made."""

    state: BackendState = BackendState.IDLE
    streams: int = 0
    """Open streams."""
    received: int = 0
    """Announcements or rows read from the server."""
    malformed: int = 0
    """Announcements or rows that made no valid payload and were skipped."""
    reconnects: int = 0
    """How often the live source was mended after a fault."""
    gaps: int = 0
    """Spans in which announcements may have been missed."""
    dropped: int = 0
    """Announcements dropped unread because the event loop had been held up for too long (Valkey); each time a gap."""
    reconciled: int = 0
    """Completions found in stored state that no announcement, and no row of the outbox, had told of."""
    waiting: int = 0
    """Rows withheld from filtered streams until the records that decide them can be asked for (Postgres)."""
    held: int = 0
    """Ids that an unfinished transaction may still fill (Postgres)."""
    held_since_s: float = 0.0
    """Age of the oldest held id, in seconds; what holds the watermark back (Postgres)."""


@final
class BackendEvent(msgspec.Struct, frozen=True):
    """A change of state."""

    backend: str
    """``memory``, ``valkey`` or ``postgres``."""
    state: BackendState
    """The state entered."""
    detail: str = ""
    """Why, in words; never a secret."""


Observer = Callable[[BackendEvent], None]
"""Called on the event loop at each change of state. Must not block; what it raises is logged and ignored."""
