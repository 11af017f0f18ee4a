"""Delays between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcompletion.delivery.backoff import Backoff


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_backoff_grows_is_capped_and_jitters(dice: list[float]) -> None:
    """Each delay lies between half and all of min(cap, base·2ⁿ)."""
    rolls = iter(dice)
    backoff = Backoff(0.1, 3.0, lambda: next(rolls))
    for attempt in range(len(dice)):
        ceiling = min(3.0, 0.1 * 2.0 ** min(attempt, 64))
        assert ceiling / 2 <= backoff.next_delay() <= ceiling
    backoff.reset()
    assert backoff.attempt == 0


def test_backoff_outlasts_days() -> None:
    """Thousands of attempts do not overflow."""
    backoff = Backoff(random=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(3000)][-1] == 5.0
    with pytest.raises(ValueError, match="cap"):
        Backoff(2, 1)
