"""What the numbers are, for whoever looks at them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, final

import msgspec

from ffcompletion.contract.stats import BackendStats

__all__ = ["Status"]

# They are added up over all streams: a crowd that looks has it done once.
_FRESH_S: Final = 0.1


@final
class Status:
    """How a backend does: its state for everybody, its counters for who may see the whole."""

    def __init__(self, backend: object, *, resumable: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._resumable = resumable
        self._clock = clock
        self._stats: object = None
        self._old_s = 0.0

    def told(self, *, whole: bool) -> Mapping[str, object]:
        """As of now, or a moment ago."""
        status: dict[str, object] = {"resumable": self._resumable}
        stats = self._seen()
        if isinstance(stats, BackendStats):
            status["state"] = stats.state.value
            if whole:
                status["stats"] = msgspec.structs.asdict(stats)
        return status

    def _seen(self) -> object:
        now_s = self._clock()
        if self._stats is None or now_s >= self._old_s:
            self._stats = getattr(self._backend, "stats", lambda: None)()
            self._old_s = now_s + _FRESH_S
        return self._stats
