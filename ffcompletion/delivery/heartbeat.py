"""Whether a connection still carries anything: send an echo now and then, and give it a deadline.

No I/O and no clock: ``now`` is passed in (seconds, monotonic), decisions come out. TCP alone never tells: an idle
half-open connection looks exactly like a quiet one.
"""

from __future__ import annotations

from typing import final

__all__ = ["Heartbeat"]


@final
class Heartbeat:
    """Decides when to send an echo, and when its absence means that the connection is dead."""

    __slots__ = ("_deadline_s", "_due", "_interval_s", "_nonce", "_sent_at")

    def __init__(self, now: float, *, interval_s: float, deadline_s: float) -> None:
        """The first echo is due at ``now``, the next an interval after the last one came back."""
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._due = now
        self._sent_at: float | None = None
        self._nonce = 0

    @property
    def waiting(self) -> bool:
        """Whether an echo is under way."""
        return self._sent_at is not None

    @property
    def next_at(self) -> float:
        """When to look again: the next echo's time, or the deadline of the one under way."""
        return self._due if self._sent_at is None else self._sent_at + self._deadline_s

    def due(self, now: float) -> str | None:
        """The echo to send now, or None if it is not time or one is under way."""
        if self._sent_at is not None or now < self._due:
            return None
        self._nonce += 1
        self._sent_at = now
        return str(self._nonce)

    def received(self, nonce: str, now: float) -> bool:
        """An echo came back. True if it is the one under way; a late one proves nothing about now."""
        if self._sent_at is None or nonce != str(self._nonce):
            return False
        self.restart(now)
        return True

    def expired(self, now: float) -> bool:
        """Whether the echo under way is overdue."""
        return self._sent_at is not None and now >= self._sent_at + self._deadline_s

    def restart(self, now: float) -> None:
        """The connection is known to carry something now: forget the echo under way, send one after an interval."""
        self._sent_at = None
        self._due = now + self._interval_s
