"""By what filters are decided, row by row, and for which rows the record is asked for."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres.facts import Needs, Record, facts_of
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.delivery.batch import DISPUTED, UNREADABLE, Facts
from ffcompletion.delivery.hub import Selector
from ffcompletion.foreign.filters import checked_filter

ROW: Row = (1, "{fp:0}:x", "success", 0, None, "a")
BARE: Row = (2, "{fp:0}:y", "success", 0, None, None)
NAMES = {"{fp:0}:x", "{fp:0}:y"}


def test_only_rows_that_do_not_decide_are_looked_up() -> None:
    """A namespace of its own decides a namespace filter; tags need the record, unless the namespace rules it out."""
    a, tag = ffc.ScannerFilter("a"), ffc.ScannerFilter("a", ("k", "v"))
    rows = [ROW, BARE, BARE, (3, None, None, None, None, None)]
    assert Needs.of([Selector(None)]).lookups(rows) == []
    assert Needs.of([Selector(a)]).lookups(rows) == [BARE[1]]
    assert Needs.of([Selector(tag)]).lookups(rows) == [ROW[1], BARE[1]]
    assert Needs.of([Selector(ffc.ScannerFilter("b", ("k", "v")))]).lookups(rows) == [BARE[1]]
    assert Needs.of([Selector(ffc.ScannerFilter(instance_tag=("k", "v")))]).lookups(rows) == [ROW[1], BARE[1]]
    assert Needs.of([Selector(None, results=True)]).lookups(rows) == [ROW[1], BARE[1]]


def test_tags_are_looked_up_of_the_namespaces_that_are_named() -> None:
    """And of all, where one is for any."""
    rows: list[Row] = [(n, f"{{fp:0}}:{n}", "success", 0, None, name) for n, name in enumerate([None, "a", "b", "c"])]

    def asked(wanted: ffc.CompletionFilter) -> list[int]:
        return [int(name.rpartition(":")[2]) for name in Needs.of([Selector(checked_filter(wanted))]).lookups(rows)]

    tagged = ffc.ScannerFilter("a", ("k", "x"))
    assert asked(ffc.any_of(tagged, ffc.ScannerFilter("b"))) == [0, 1, 2]
    assert asked(ffc.all_of(tagged, ffc.any_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b")))) == [0, 1]
    assert asked(ffc.any_of(tagged, ffc.ScannerFilter(None, ("k", "x")))) == [0, 1, 2, 3]
    assert asked(ffc.any_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b"))) == [0]


@pytest.mark.parametrize(
    ("record", "own", "bare"),
    [
        pytest.param(Record("a", '{"k": "v"}', None), ("a", {"k": "v"}), ("a", {"k": "v"}), id="they agree"),
        pytest.param(Record(None, '{"k": "v"}', None), ("a", {"k": "v"}), (None, {"k": "v"}), id="it names none"),
        pytest.param(Record("b", None, None), ("a", DISPUTED), ("b", {}), id="it names another"),
        pytest.param(Record(None, None, None, readable=False), ("a", DISPUTED), None, id="it cannot be read"),
        pytest.param(Record("a", '{"k": ' + "[" * 10_000, None), ("a", UNREADABLE), ("a", UNREADABLE), id="its tags cannot"),
        pytest.param(None, ("a", {}), None, id="there is none"),
    ],
)  # fmt: skip
def test_the_row_s_namespace_counts_and_the_record_s_tags(
    record: Record | None, own: Facts | None, bare: Facts | None
) -> None:
    """For a row that names its namespace, and for one that does not."""
    records = {} if record is None else dict.fromkeys(NAMES, record)
    for known, expected in zip(facts_of([ROW, BARE], records, NAMES), [own, bare], strict=True):
        assert known == expected
        if known is not None and expected is not None:
            # Two that are empty are equal, and say different things.
            assert (known[1] is DISPUTED, known[1] is UNREADABLE) == (
                expected[1] is DISPUTED,
                expected[1] is UNREADABLE,
            )


def test_what_was_not_looked_up_is_decided_by_the_row_alone() -> None:
    records = dict.fromkeys(NAMES, Record("b", '{"k": "v"}', None))
    assert facts_of([ROW, BARE, (3, None, None, None, None, None)], records, set()) == [("a", {}), None, None]
