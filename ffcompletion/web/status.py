"""What the numbers are, for whoever looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from ffcompletion.contract.stats import BackendStats

__all__ = ["status_of"]


def status_of(backend: object, *, resumable: bool, whole: bool) -> Callable[[], Mapping[str, object]]:
    """A function that tells how the backend does: its state for everybody, its counters for who may see the whole."""

    def status() -> Mapping[str, object]:
        status: dict[str, object] = {"resumable": resumable}
        stats: object = getattr(backend, "stats", lambda: None)()
        if isinstance(stats, BackendStats):
            status["state"] = stats.state.value
            if whole:
                status["stats"] = msgspec.structs.asdict(stats)
        return status

    return status
