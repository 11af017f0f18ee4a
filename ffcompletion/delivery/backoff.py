"""When to try again. No I/O and no clock: randomness is passed in, delays come out."""

from __future__ import annotations

import random as dice
from collections.abc import Callable
from typing import final

__all__ = ["Backoff"]


@final
class Backoff:
    """Exponential delays with full jitter, capped, and reset by success.

    The first delay is short, because the usual fault is one dropped connection to a healthy server; the cap is what
    a fleet of readers can afford against a server that is down for hours.
    """

    __slots__ = ("_attempt", "_base_s", "_cap_s", "_random")

    def __init__(self, base_s: float = 0.05, cap_s: float = 5.0, random: Callable[[], float] = dice.random) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError("0 < base_s <= cap_s")
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self._attempt = 0

    @property
    def attempt(self) -> int:
        """Failures since the last success."""
        return self._attempt

    def next_delay(self) -> float:
        """Seconds to wait after one more failure: between half and all of ``min(cap, base * 2**attempt)``."""
        # 2.0 ** 1024 overflows a float; an outage of days gets there.
        ceiling = min(self._cap_s, self._base_s * 2.0 ** min(self._attempt, 64))
        self._attempt += 1
        return ceiling * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """A success: the next failure starts from the shortest delay again."""
        self._attempt = 0
