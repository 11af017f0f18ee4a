"""Say it, but not a thousand times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import final

__all__ = ["RateLog"]


@final
class RateLog:
    """Logs the first of a kind of event at once, then at most one line per interval with the number since."""

    __slots__ = ("_clock", "_interval_s", "_last", "_log", "_since")

    def __init__(
        self, log: logging.Logger, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._last: float | None = None
        self._since = 0

    def warning(self, what: str) -> None:
        """Count one event, described by ``what`` (never a secret), and log if it is time."""
        self._since += 1
        now = self._clock()
        if self._last is not None and now - self._last < self._interval_s:
            return
        self._log.warning("%s (%d since the last line)", what, self._since)
        self._last = now
        self._since = 0
