"""What a gap holds."""

from __future__ import annotations

from ffcompletion.backends.postgres.gap import over, packed


def test_an_id_is_taken_out_of_a_gap() -> None:
    """From either end, from the middle, and alone."""
    (gap,) = packed([(1, 1), (5, 9), (20, 21)], 0.0)
    for event_id, left in (
        (5, [(1, 1), (6, 9), (20, 21)]),
        (9, [(1, 1), (6, 8), (20, 21)]),
        (7, [(1, 1), (6, 6), (8, 8), (20, 21)]),
        (1, [(6, 6), (8, 8), (20, 21)]),
        (21, [(6, 6), (8, 8), (20, 20)]),
    ):
        gap.take(event_id)
        assert list(gap.spans) == left


def test_what_is_over_is_over_for_all_that_may_own_it() -> None:
    first, second, third = packed([(1, 2)], 0.0) + packed([(5, 5)], 0.0) + packed([(7, 9)], 0.0)
    second.owners, third.owners = frozenset({"1/1"}), frozenset()
    assert over([first, second, third]) == [(7, 9)]
