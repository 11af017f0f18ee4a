"""Stored results: whose, for whom, and how many at once."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.lookups import Result
from ffcompletion.backends.postgres.results import Budget, admitted, dispute, stored_sizes
from ffcompletion.delivery.batch import DISPUTED, Facts
from ffcompletion.delivery.hub import Selector

PAYLOADS = [ffc.CompletionPayload(ffc.ExecutionId(f"{{fp:0}}:{'0' * 8}-{'0' * 4}-{'0' * 4}-{'0' * 4}-{n:012}"), "success") for n in range(4)]  # fmt: skip
A, B, C, D = (str(payload.execution_id) for payload in PAYLOADS)


def test_a_question_about_results_shrinks_when_it_fails() -> None:
    """By bytes; a single one that fails is given more time; quick answers make it larger again."""
    budget = Budget()
    assert budget.fit([1 << 20] * 5) == 1
    assert budget.fit([None, 10, None]) == 3
    assert budget.fit([1 << 30, 1]) == 1
    assert budget.fit([]) == 0
    budget.shrink(4)
    assert budget.fit([1 << 18] * 5) == 2
    budget.shrink(1)
    budget.shrink(1)
    assert budget.patience == 4
    budget.grow(5.0)
    assert (budget.patience, budget.fit([1 << 18] * 5)) == (1, 2)
    budget.grow(0.1)
    assert budget.fit([1 << 18] * 5) == 4


def test_a_question_is_never_too_small_or_too_large_and_patience_ends() -> None:
    budget = Budget()
    for _ in range(30):
        budget.shrink(2)
        budget.shrink(1)
    assert (budget.fit([1 << 12] * 9), budget.patience) == (4, 64)
    for _ in range(30):
        budget.grow(0.1)
    assert budget.fit([1 << 20] * 20) == 8


def test_results_are_asked_for_on_behalf_of_those_who_are_to_get_them() -> None:
    """Not for a stream that wants none, nor where a filter withholds the completion, or may not give its result away."""
    facts: list[Facts | None] = [("a", {}), ("b", {}), None, ("a", DISPUTED)]
    plain, mine = Selector(ffc.ScannerFilter("b")), Selector(ffc.ScannerFilter("a"), results=True)
    assert admitted([plain], PAYLOADS, facts) == set()
    assert admitted([plain, mine], PAYLOADS, facts) == {A}
    assert admitted([mine, Selector(results=True)], PAYLOADS, facts) == {A, B, C, D}


def test_sizes_are_those_of_wanted_results() -> None:
    records = {A: Record("a", None, 5), B: Record("a", None, 7), D: Record("a", None, None)}
    assert stored_sizes(PAYLOADS, {A, C, D}, records) == [5, None, None, None]


def test_a_result_is_not_given_to_whom_its_record_no_longer_belongs() -> None:
    """It was decided by what the record said before; by now it is somebody else's, or cannot be read."""
    facts: list[Facts | None] = [("a", {}), ("a", {}), None, ("a", {})]
    dispute(PAYLOADS, facts, {A: Result("b", b"x"), B: Result(None, b"x"), C: Result("b", b"x")})
    assert facts == [("a", DISPUTED), ("a", {}), None, ("a", {})]
    assert facts[0] is not None
    assert facts[0][1] is DISPUTED
    dispute(PAYLOADS, facts, {B: Result("a", b"x"), D: Result(None, None, readable=False)})
    assert [known is not None and known[1] is DISPUTED for known in facts] == [True, False, False, True]
