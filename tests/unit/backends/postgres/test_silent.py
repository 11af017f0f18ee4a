"""What ended without a row: which ends are news, and for which stream."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres import silent as module
from ffcompletion.backends.postgres.silent import (
    Backlog,
    DecidedEnds,
    End,
    EndRow,
    Silent,
    end_of,
    facts_of,
    partition_of,
    payload_of,
)
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import UNREADABLE


def end(name: str, at_ms: int) -> End:
    return End(name, at_ms, "cancelled", None, None, None, None)


def names(ends: list[End]) -> list[str]:
    return [each.name for each in ends]


A, B, A2, OLD, LATE = ("{fp:0}:a", "{fp:0}:b", "{fp:0}:a2", "{fp:0}:old", "{fp:0}:late")
ID = "{fp:0}:00000000-0000-4000-8000-000000000000"
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"


def test_each_end_is_news_once_and_clocks_may_lie_apart() -> None:
    """Overlapping looks, ends of before the first one, a clock behind, and a server's clock that goes back."""
    silent = Silent(1_000)
    silent.start_anew(10_000)
    silent.begin(10_100)
    assert silent.since_ms(0) == 9_000
    assert names(silent.candidates([end(OLD, 9_500), end(B, 10_060), end(A, 10_050)])) == [A, B]
    silent.looked_at(0, silent.began_ms)
    silent.end()
    silent.begin(11_000)
    assert silent.since_ms(0) == 9_100
    found = silent.candidates([end(A, 10_050), end(LATE, 10_020), end(OLD, 9_500), end(A2, 10_900)])
    assert names(found) == [LATE, A2]
    silent.looked_at(0, silent.began_ms)
    silent.end()
    again = silent.candidates([end(A, 10_950)])
    assert names(again) == [A], "replayed, and ended again"
    silent.forget(again)
    assert names(silent.candidates([end(A, 10_950)])) == [A], "it could not be handed out"
    silent.begin(5_000)
    assert silent.since_ms(0) == 4_000


def test_a_first_look_begins_by_itself() -> None:
    silent = Silent(1_000)
    silent.begin(10_000)
    assert silent.since_ms(0) == silent.since_ms(None) == 9_000


def test_each_partition_is_read_since_its_own_last_look() -> None:
    """However long ago that was; what is known of it is known until then."""
    silent = Silent(1_000)
    silent.start_anew(10_000)
    silent.begin(10_000)
    silent.looked_at(0, silent.began_ms)
    silent.looked_at(1, silent.began_ms)
    silent.end()
    for at_ms in range(11_000, 100_000, 1_000):
        silent.begin(at_ms)
        silent.looked_at(1, silent.began_ms)
        silent.end()
    silent.begin(100_000)
    assert (silent.since_ms(0), silent.since_ms(1)) == (9_000, 98_000)
    one, two = "{fp:0}:one", "{fp:1}:two"
    assert names(silent.candidates([end(one, 20_000), end(two, 98_500)])) == [one, two]
    silent.looked_at(1, silent.began_ms)
    silent.end()
    silent.begin(101_000)
    assert silent.candidates([end(one, 20_000)]) == [], "partition 0 is read since 9,000 still"
    silent.looked_at(0, silent.began_ms)
    silent.end()
    assert names(silent.candidates([end(one, 20_000)])) == [one], "no look would read it again"


def test_a_table_that_is_not_partitioned_is_read_as_one() -> None:
    silent = Silent(1_000)
    silent.start_anew(10_000)
    silent.begin(20_000)
    assert silent.since_ms(None) == 9_000
    silent.looked_at(None, silent.began_ms)
    silent.end()
    silent.begin(30_000)
    assert silent.since_ms(None) == silent.since_ms(7) == 19_000
    assert partition_of("{fp:255}:x") == 255


def test_a_stream_is_given_each_end_once_and_no_row_for_it() -> None:
    """Not what ended before it was opened; not the row of the same time; its own memory is bounded."""
    given = DecidedEnds(10_000)
    assert given.without_given(nothing := [CompletionPayload(ExecutionId(ID), "cancelled")]) is nothing
    ends = [end("{fp:0}:a", 5_000), end("{fp:0}:b", 10_001)]
    mine = given.wanted(ends)
    assert names(mine) == ["{fp:0}:b"]
    given.decide(mine, ())
    assert given.wanted(ends) == []
    assert names(given.wanted([end("{fp:0}:b", 10_500)])) == ["{fp:0}:b"]
    row = CompletionPayload(ExecutionId(ID), "cancelled", None, 10_001)
    given.decide([end(row.execution_id, 10_003)], ())
    assert given.without_given([row]) == [row], "its filter did not admit the record; the row decides for itself"
    given.decide([end(row.execution_id, 10_003)], [row])
    assert given.without_given([row]) == []
    others = [CompletionPayload(row.execution_id, "cancelled", None, 10_100)]
    assert given.without_given(others) is others
    given.decide((end(f"{{fp:0}}:{number}", 1) for number in range(50_000)), ())
    assert names(given.wanted([end("{fp:0}:b", 10_001)])) == ["{fp:0}:b"]


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that were found are forgotten first: they may be found, and handed out, once more."""
    monkeypatch.setattr(module, "_KNOWN", 8)
    silent = Silent(1_000)
    silent.start_anew(10_000)
    ends = [end(f"{{fp:0}}:{number}", 10_000 + number) for number in range(9)]
    assert silent.candidates(ends) == ends
    assert silent.candidates(ends[-6:]) == []
    assert silent.candidates(ends[:1]) == ends[:1]


def test_an_end_is_what_its_record_says() -> None:
    row: EndRow = (7, "00000000-0000-4000-8000-000000000000", "a", '{"k": "v"}', 5, 10_000, FLOW, "cancelled", None, None, True, 1)  # fmt: skip
    found = end_of(row, readable=True)
    assert found == End(ID.replace("0", "7", 1), 10_000, "cancelled", FLOW, "a", '{"k": "v"}', 5)
    payload = payload_of(found)
    assert (payload.execution_id, payload.outcome, payload.produced_at_ms, payload.flow_id) == (
        found.name, "cancelled", 10_000, FLOW,
    )  # fmt: skip
    assert (payload.payload_bytes, payload.cursor) == (None, None)
    assert payload_of(end(ID, 10_000)).flow_id is None
    assert facts_of(found) == ("a", {"k": "v"})


def test_a_record_that_cannot_be_read_decides_nothing() -> None:
    """Where only its tags cannot, its namespace still does."""
    row: EndRow = (7, "x", "a", '{"k": ' + "[" * 600, None, 10_000, None, "terminal", "attempt_timeout", None, True, 1)
    known = facts_of(end_of(row, readable=True))
    assert known is not None
    assert (known[0], known[1] is UNREADABLE, end_of(row, readable=True).outcome) == ("a", True, "expired")
    assert facts_of(end_of(row, readable=False)) is None
    assert facts_of(end_of((*row[:10], False, 1), readable=True)) is None


def test_a_stream_s_backlog_is_read_everywhere_or_where_it_has_missed_something() -> None:
    """Since a time, in each partition once they are known, or in the one table; and where ends did not fit."""
    for keys, expected in (range(3), [0, 1, 2]), ((), [None]):
        backlog = Backlog(5_000)
        assert backlog
        for _ in range(2):
            backlog.begin(keys)
            assert [(mark.key, mark.since_ms) for mark in backlog.unread.piece(9)] == [(key, 5_000) for key in expected]
        backlog.unread.read(backlog.unread.piece(9), None)
        assert not backlog
        backlog.begin(keys)
        assert not backlog, "it was read"
        backlog.add([end("{fp:2}:a", 6_000), end("{fp:2}:b", 7_000)], keys)
        assert [(mark.key, mark.since_ms) for mark in backlog.unread.piece(9)] == [(expected[-1], 6_000)]
        assert backlog
    assert not Backlog()
