"""What a gap holds."""

from __future__ import annotations

from itertools import pairwise

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


def test_however_long_one_goes_on_what_others_left_is_looked_for() -> None:
    """On a replica, where nobody is seen to end: twice a minute."""
    (gap,) = packed([(1, 5)], 0.0)
    reads = []
    for number in range(3_600):
        gap.narrow(frozenset({"horizon 1"}), frozenset())
        if gap.reread_to is not None:
            reads.append(number)
            gap.was_read(5)
    assert max(after - before for before, after in pairwise(reads)) == 30
