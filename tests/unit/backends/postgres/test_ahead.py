"""Ids beyond what the sequence has given out."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres.ahead import AHEAD_KEPT, Ahead


def test_of_ids_ahead_of_the_sequence_the_next_are_remembered() -> None:
    """Each is awaited until one more row bears it than did before, or it is passed."""
    ahead = Ahead()
    assert not ahead
    assert not ahead.awaited([1, 2])
    ahead.remember(range(5, 5 + 2 * AHEAD_KEPT))
    ahead.remember([6, 6])
    assert ahead
    assert ahead.awaited([4, 5, 6, 6, 7, 7]) == {5, 6}
    assert not ahead.awaited([6, 6, 6])
    assert not ahead.awaited([5 + AHEAD_KEPT])
    ahead.forget(6)
    assert ahead.awaited([5, 6, 7]) == {7}


def test_a_row_beyond_the_sequence_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what an operator needs to find who writes such ids."""
    ahead = Ahead()
    ahead.tell(9_000, 12)
    ahead.tell(9_001, 12)
    (line,) = caplog.messages
    assert "a row with id 9000, and its sequence has given out ids up to 12" in line


def test_where_none_are_ahead_nothing_is_forgotten() -> None:
    ahead = Ahead()
    ahead.forget(5)
    ahead.remember([5])
    assert ahead.awaited([5]) == {5}
