"""Who may own an id on a replica: everybody that had a number by then, or a moment later."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres.horizons import Horizons, next_number


def test_it_is_over_when_everything_has_ended_that_was_numbered_by_then() -> None:
    horizons = Horizons()
    first = horizons.seen(7, 10, 0.0)
    assert len(first) == 1
    # The next one is another: 10 to 19 are none of the first one's.
    assert set(first) < set(both := horizons.seen(9, 20, 2.0))
    assert horizons.seen(10, 20, 4.0)[:1] == both[1:]


def test_who_has_the_newest_number_may_own_it_and_who_is_numbered_a_moment_later() -> None:
    """Nothing that a replica calls under way has either: both lie at or beyond all that have ended."""
    horizons = Horizons()
    names = horizons.seen(10, 10, 0.0)
    assert horizons.seen(10, 12, 0.5) == names
    assert names[0] in horizons.seen(11, 13, 1.5)
    assert names[0] not in horizons.seen(12, 14, 3.0)


def test_one_that_does_not_end_makes_no_more_of_them_than_some() -> None:
    """And what rises then is over when it should be."""
    horizons = Horizons()
    names = [horizons.seen(5, 10 + second, 2.0 * second) for second in range(1_000)][-1]
    assert len(names) == 16
    assert horizons.seen(1_008, 2_000, 3_000.0)[0] == names[-1]
    assert names[-1] not in horizons.seen(1_009, 2_000, 3_000.0)


@pytest.mark.parametrize("epoch", [0, 3], ids=["the first epoch", "a later one"])
@pytest.mark.parametrize("ahead", [0, 1, 70_000])
@pytest.mark.parametrize("number", [3, 1 << 31, (1 << 32) - 2], ids=["the first", "half-way", "about to wrap"])
def test_the_next_number_has_64_bits(epoch: int, ahead: int, number: int) -> None:
    completed = (epoch << 32) + number
    low = (completed + ahead) % (1 << 32) - 3
    # As the server says it, in 32 bits with a sign.
    age = (low + (1 << 31)) % (1 << 32) - (1 << 31)
    assert next_number(completed, age) == completed + ahead
