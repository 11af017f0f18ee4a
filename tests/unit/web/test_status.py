"""How a backend does: for a crowd that looks it is added up once."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.web.status import Status


class _Counts:
    def __init__(self) -> None:
        self.asked = 0

    def stats(self) -> ffc.BackendStats:
        self.asked += 1
        return ffc.BackendStats(state=ffc.BackendState.LIVE, received=self.asked)


def test_whoever_looks_at_the_same_time_sees_the_same() -> None:
    """Each look of each client was a sum over all streams: a tenant with a thousand of either had the loop for itself."""
    backend, now = _Counts(), [0.0]
    status = Status(backend, resumable=True, clock=lambda: now[0])
    looks = [status.told(whole=bool(number % 2)) for number in range(1_000)]
    assert backend.asked == 1
    assert looks[0] == {"resumable": True, "state": "live"}
    assert looks[1]["stats"]["received"] == 1  # type: ignore[index]  # a mapping
    now[0] = 0.1
    assert status.told(whole=True)["stats"]["received"] == 2  # type: ignore[index]  # the same


def test_a_backend_that_counts_nothing() -> None:
    assert Status(object(), resumable=False).told(whole=True) == {"resumable": False}
