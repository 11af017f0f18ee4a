"""When it is told who holds the watermark, and what is said of whom. With a moved clock."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres.holders import Holder, Holding


def holder(pid: int | None = 7, age_s: float | None = 100.0, query: str | None = "SELECT 1", **more: str) -> Holder:
    prepared, state = more.get("prepared"), more.get("state", "active")
    return Holder.of((pid, "app", state, age_s, "2026-01-01 00:00:00", query, prepared))


def test_each_hold_is_told_once_and_its_end_once() -> None:
    holding = Holding(60.0)
    assert not holding.due(None, 0.0)
    assert not holding.due(10.0, 69.9)
    assert holding.due(10.0, 70.0)
    line = holding.tell(10.0, 70.0, [holder()], 5, 3)
    assert "held at event 5 for 60 s (3 ids" in line
    assert not holding.due(10.0, 500.0)
    assert holding.over(10.0, 500.0) is None
    # Another one has held it since.
    assert holding.over(450.0, 500.0) == "the watermark moves again, after 490 s"
    assert holding.over(450.0, 500.0) is None
    assert holding.due(450.0, 510.0)


def test_what_ends_before_it_was_told_is_not_told() -> None:
    holding = Holding(60.0)
    assert not holding.due(10.0, 50.0)
    assert holding.over(None, 60.0) is None


def test_only_who_is_old_enough_is_named() -> None:
    line = Holding(60.0).tell(0.0, 60.0, [holder(1, 61.0), holder(2, 59.5), holder(3, 5.0)], 0, 1)
    assert "pid 1 (app, active), since 2026-01-01 00:00:00 UTC: 'SELECT 1', and 1 more" in line
    assert "pg_terminate_backend(1);" in line
    line = Holding(60.0).tell(0.0, 60.0, [holder(3, 5.0)], 0, 1)
    assert "nobody who can be seen" in line
    assert "pg_terminate" not in line


def test_a_prepared_transaction_and_one_that_may_not_be_seen() -> None:
    line = Holding(60.0).tell(0.0, 60.0, [holder(None, 90.0, None, prepared="it's")], 0, 1)
    assert "ROLLBACK PREPARED 'it''s'" in line
    line = Holding(60.0).tell(0.0, 60.0, [holder(9, None, "<insufficient privilege>")], 0, 1)
    assert "pid 9, of which this role may not see more" in line


@pytest.mark.parametrize(
    "query",
    [
        "ALTER ROLE app PASSWORD 'sEcReT'",
        "INSERT INTO t VALUES ('a''sEcReT', 2)",
        "SELECT 'cut off in the sEcReT",
        "SELECT $x$sEcReT$x$, 1",
        "SELECT $$sEcReT",
        "SELECT 'two\nlines of sEcReT'",
    ],
)
def test_values_in_a_query_are_nobody_s_business(query: str) -> None:
    shown = str(holder(query=query))
    assert "sEcReT" not in shown
    assert query[:6] in shown
