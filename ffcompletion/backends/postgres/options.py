"""What a backend was told when it was made, and what it counts: all that outlives its runs."""

from __future__ import annotations

from typing import final

import msgspec

from ffcompletion.backends.postgres.connection import Target
from ffcompletion.backends.postgres.queries import Queries

__all__ = ["Counters", "Settings"]


@final
class Settings(msgspec.Struct, frozen=True):
    """The backend's options, as a run needs them."""

    target: Target
    queries: Queries
    poll_interval_s: float
    read_timeout_s: float
    buffer_size: int
    reconcile_interval_s: float


@final
class Counters:
    """What is counted over all runs of a backend."""

    def __init__(self) -> None:
        self.received: int = 0
        """Of runs that are over."""
        self.malformed: int = 0
        """Of runs that are over."""
        self.interruptions: int = 0
        self.reconciled: int = 0
        """Of runs that are over."""
