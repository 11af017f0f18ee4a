"""How far a consumer is: never beyond what is not done."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.consumers.progress import Progress
from ffcompletion.contract.stats import Lag

AT = ffc.StreamCursor.outbox


@given(st.lists(st.integers(0, 30), max_size=30), st.randoms())
def test_progress_follows_the_oldest_that_is_not_done(order: list[int], random: Any) -> None:
    """Whatever the order in which things are done: never beyond one that is not, and up to the end at the end."""
    progress = Progress()
    cursors = [AT(number + 1) for number in range(len(order))]
    finishers = [progress.begin(cursor) for cursor in cursors]
    left = list(range(len(order)))
    random.shuffle(left)
    while left:
        finishers[left.pop()]()
        at = min(left, default=len(order))
        assert progress.cursor == (cursors[at - 1] if at else None)
        assert progress.busy == bool(left)


def test_what_is_done_ahead_of_its_turn_waits() -> None:
    progress = Progress()
    first, second = progress.begin(AT(1)), progress.begin(AT(2))
    second()
    assert (progress.cursor, progress.busy) == (None, True)
    first()
    assert (progress.cursor, progress.busy) == (AT(2), False)


def test_the_lag_is_what_is_handed_out_and_not_done_and_what_is_still_to_come() -> None:
    """As old as the oldest of them."""
    progress, behind = Progress(), Lag(completions=10, seconds=5.0)
    assert progress.lag(behind) is behind
    ages_ms = 60_000, 40_000, 20_000
    first, second, _ = (progress.begin(AT(n + 1), int(time.time() * 1000) - ago) for n, ago in enumerate(ages_ms))
    second()
    for finish, completions, seconds in (None, 12, 60), (first, 11, 20):
        if finish is not None:
            finish()
        lag = progress.lag(behind)
        assert lag.completions == completions
        assert lag.seconds is not None
        assert seconds <= lag.seconds < seconds + 5
