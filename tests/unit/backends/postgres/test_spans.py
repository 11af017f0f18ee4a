"""Spans of ids as sets of ids."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ffcompletion.backends.postgres.spans import covers, merged, missing, run_from, union, without

IDS = st.sets(st.integers(1, 60))


def _spans(ids: set[int]) -> list[tuple[int, int]]:
    return merged([(i, i) for i in sorted(ids)], slack=1)


def test_spans_are_merged_up_to_a_length() -> None:
    """Close ones are joined, but not into one that is too long; a long one stays as it is."""
    spans = [(1, 1), (5, 6), (9, 12), (40, 40), (41, 99)]
    assert merged(spans, slack=5) == [(1, 12), (40, 99)]
    assert merged(spans, slack=5, longest=10) == [(1, 6), (9, 12), (40, 40), (41, 99)]


def _ids(spans: list[tuple[int, int]]) -> set[int]:
    return {i for low, high in spans for i in range(low, high + 1)}


@given(IDS, IDS)
def test_spans_are_sets(one: set[int], other: set[int]) -> None:
    """Union and difference agree with Python's sets, and stay ascending and disjoint."""
    for got, expected in (
        (union(_spans(one), _spans(other)), one | other),
        (without(_spans(one), _spans(other)), one - other),
    ):
        assert _ids(got) == expected
        assert got == sorted(got)
        assert all(a[1] < b[0] for a, b in pairwise(got))
    if one:
        assert _ids(missing(sorted(one))) == set(range(min(one), max(one) + 1)) - one


def test_a_span_that_lies_in_one() -> None:
    """Wholly, in a single one."""
    spans = [(1, 5), (10, 12)]
    assert [covers(spans, span) for span in ((1, 5), (11, 12), (0, 1), (5, 10), (12, 13))] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_run_of_close_ones() -> None:
    """No step beyond the slack, and not too much in between."""
    spans = [(1, 10), (12, 20), (23, 30), (99, 99)]
    assert run_from(spans, 5, 100) == (1, 30)
    assert run_from(spans, 1, 100) == (1, 20)
    assert run_from(spans, 5, 2) == (1, 20)
    assert run_from(spans[:1], 5, 2) == (1, 10)
