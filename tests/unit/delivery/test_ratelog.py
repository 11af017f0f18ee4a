"""Log lines by the thousand become one a span."""

from __future__ import annotations

import pytest

from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger


def test_ratelog_bounds_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    """The first at once, then one a span, with the number since."""
    now = [0.0]
    log = RateLog(logger("ffcompletion.test"), 10, lambda: now[0])
    for tick in range(1001):
        now[0] = tick / 50
        log.warning("bad")
    assert [record.getMessage() for record in caplog.records] == [
        "bad (1 since the last line)",
        "bad (500 since the last line)",
        "bad (500 since the last line)",
    ]
