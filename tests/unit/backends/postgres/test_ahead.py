"""Ids beyond what the sequence has given out."""

from __future__ import annotations

from ffcompletion.backends.postgres.ahead import AHEAD_KEPT, Ahead


def test_of_ids_ahead_of_the_sequence_the_next_are_remembered() -> None:
    """Each is awaited until one more row bears it than did before, or it is passed."""
    ahead = Ahead()
    assert not ahead.awaited([1, 2])
    ahead.remember(range(5, 5 + 2 * AHEAD_KEPT))
    ahead.remember([6, 6])
    assert ahead.awaited([4, 5, 6, 6, 7, 7]) == {5, 6}
    assert not ahead.awaited([6, 6, 6])
    assert not ahead.awaited([5 + AHEAD_KEPT])
    ahead.forget(6)
    assert ahead.awaited([5, 6, 7]) == {7}
