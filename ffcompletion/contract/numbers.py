"""Numbers that callers hand in: seconds that a clock and a server can take, and counts."""

from __future__ import annotations

import math
from contextlib import suppress
from operator import index
from typing import Final, SupportsFloat, SupportsIndex

from ffcompletion.contract.errors import Validation

__all__ = ["MOST_MEMBERS", "MOST_S", "check_count", "check_seconds"]

MOST_S: Final = 2_000_000.0
"""Seconds, some 23 days: a server counts its time limits in milliseconds, with 31 bits."""
MOST_MEMBERS: Final = 100_000
"""Executions of one flow that a server is asked for: some 20 MB of ids."""


def check_seconds(name: str, value: object, *, above_zero: bool = False, most: float = MOST_S) -> float:
    """``value`` in seconds, from 0 (or above it) to ``most``. Raises ``Validation`` for anything else."""
    seconds = math.nan
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        with suppress(OverflowError, ValueError):
            seconds = float(value)
    if not 0 <= seconds <= most or (above_zero and not seconds):
        least = "above 0" if above_zero else "at least 0"
        raise Validation(name, f"must be {least} and at most {most:g} seconds, not {value!r:.40}")
    return seconds


def check_count(name: str, value: object, least: int = 1) -> int:
    """``value`` as a whole number, at least so many. Raises ``Validation`` for anything else."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool) and (number := index(value)) >= least:
        return number
    raise Validation(name, f"must be a whole number, at least {least}, not {value!r:.40}")
