"""What the doctor makes of a server's answers; tests/doors/test_doctor.py holds the remedies against real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ffcompletion.backends.postgres import doctor_findings as say
from ffcompletion.backends.postgres.doctor_commands import Commands
from ffcompletion.backends.postgres.holders import Holder
from ffcompletion.contract.diagnosis import Finding, Verdict

OK, NOTE, WARNING, FAILURE = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.FAILURE
HERE = Commands("postgresql://ann@db/shop", {"user": "ann", "host": "db", "dbname": "shop"})


def test_versions_and_roles() -> None:
    assert say.version_of(150_000, ("15.0 (Debian)",)) == (OK, "PostgreSQL 15.0 (Debian)", "")
    assert say.version_of(149_999, ("14.9",))[0] is FAILURE
    assert say.role(False, None) == Finding("role", OK, "primary")
    for lag_s, text in (None, "replica:"), (2.55, "replica, 2.5 s behind:"):
        it = say.role(True, lag_s)
        assert (it.verdict, it.found.startswith(text), "primary" in it.remedy) == (WARNING, True, True)


def table(name: str, space: str = "public", *, usage: bool = True, select: bool = True, secured: bool = False, near: bool = True) -> tuple[Any, ...]:  # fmt: skip
    return 7, name, space, usage, select, secured, near


OUTBOX, CORE = "ff_completion_event", "ff_exec_core"


def test_both_tables_can_be_read() -> None:
    findings, outbox = say.rights([table(OUTBOX), table(CORE)], None, "ann", HERE)
    assert [(it.check, it.verdict) for it in findings] == [
        (f"table {OUTBOX}", OK), (f"table {CORE}", OK), ("row-level security", OK),
    ]  # fmt: skip
    assert outbox == 7


@pytest.mark.parametrize(
    ("found", "schema", "text", "remedy"),
    [
        ([], None, "not in the search path", "ffcompletion producers install postgresql://ann@db/shop"),
        ([], "flow", "not in schema flow", "ffcompletion producers install postgresql://ann@db/shop"),
        ([table(OUTBOX, "flow", near=False)], None, "there is one in schema flow", "ffcompletion doctor postgresql://ann@db/shop --schema flow"),
        # Not in the search path because it may not be used.
        ([table(OUTBOX, "flow", usage=False, near=False)], None, "ann may not use schema flow", 'ON SCHEMA "flow" TO "ann";'),
        ([table(OUTBOX, "flow", usage=False, near=False)], "flow", "ann may not use schema flow", "GRANT USAGE"),
        ([table(OUTBOX, select=False)], None, f'ann may not read "public"."{OUTBOX}"', f'ON "public"."{OUTBOX}" TO "ann";'),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read(found: list[tuple[Any, ...]], schema: str | None, text: str, remedy: str) -> None:
    findings, outbox = say.rights(found, schema, "ann", HERE)
    assert (findings[0].check, findings[0].verdict) == (f"table {OUTBOX}", FAILURE)
    assert (text in findings[0].found, remedy in findings[0].remedy, outbox) == (True, True, None)


def test_policies_that_hide_rows() -> None:
    """Of a table that may be used; then it is not said that none applies."""
    findings, _ = say.rights([table(OUTBOX), table(CORE, secured=True)], None, "ann", HERE)
    (it,) = (it for it in findings if it.check == "row-level security")
    assert (it.verdict, f'"{CORE}"' in it.found, it.remedy) == (WARNING, True, 'ALTER ROLE "ann" BYPASSRLS;')


def test_how_full_something_is() -> None:
    found = [say.filling("q", share, "x", 0.1) for share in (0.0, 0.09, 0.1, 0.95, 0.96)]
    assert [it.verdict for it in found] == [OK, OK, WARNING, WARNING, FAILURE]
    assert [it.remedy for it in found] == ["", "", "x", "x", "x"]


@pytest.mark.parametrize(
    ("idle", "statement", "remedy"),
    [
        (0, 0, ""),
        (0, 5_000, ""),
        (0, 4_999, """ALTER ROLE "ann" IN DATABASE "shop" SET statement_timeout = '30s';"""),
        (300_000, 200, 'ALTER ROLE "ann" IN DATABASE "shop" SET idle_session_timeout = 0;'),
    ],
)
def test_time_outs_that_get_in_the_way(idle: int, statement: int, remedy: str) -> None:
    settings = {"idle_session_timeout": idle, "statement_timeout": statement, "lock_timeout": 0}
    it = say.timeouts(settings, "ann", "shop")
    assert (it.verdict, it.remedy) == (WARNING if remedy else OK, remedy)


def test_a_sequence_that_sets_ids_aside_and_tables_that_were_never_analyzed() -> None:
    assert say.sequence([(20, "s")]).remedy == "ALTER SEQUENCE s CACHE 1;"
    assert [say.sequence(rows).verdict for rows in ([(20, "s")], [(1, "s")], [])] == [WARNING, OK, OK]
    assert [say.statistics(never, 3, "s").verdict for never in (1, 0)] == [NOTE, OK]
    assert say.statistics(1, 3, "s").remedy == f'ANALYZE "s"."{OUTBOX}", "s"."{CORE}";'


ENABLED, DISABLED, MISSING = ("t1", "g", "O", None), ("t2", "g", "D", None), ("t3", None, None, "CREATE TRIGGER …")


@pytest.mark.parametrize(
    ("rows", "verdict", "found", "remedy"),
    [
        ([ENABLED], OK, "enabled on 1 table", ""),
        ([ENABLED] * 2, OK, "enabled on 2 tables", ""),
        ([], WARNING, "none announces", "producers install postgresql://ann@db/shop"),
        ([MISSING], WARNING, "none announces", "producers install postgresql://ann@db/shop"),
        ([MISSING, DISABLED], WARNING, "disabled on t2:", "ALTER TABLE t2 ENABLE TRIGGER g;"),
        ([("t0", "g", "R", None), DISABLED], WARNING, "disabled on t0 and 1 more:", "ALTER TABLE t0 ENABLE TRIGGER g;"),
        ([ENABLED, MISSING], WARNING, "missing on t3:", "CREATE TRIGGER …;"),
        ([("t0", None, None, None), ENABLED, MISSING], WARNING, "missing on t0 and 1 more:", ""),
    ],
)
def test_triggers(rows: list[tuple[Any, ...]], verdict: Verdict, found: str, remedy: str) -> None:
    it = say.trigger(rows, HERE)
    assert (it.verdict, found in it.found, remedy in it.remedy, bool(it.remedy)) == (verdict, True, True, bool(remedy))


@pytest.mark.parametrize(
    ("rows", "verdict", "found", "remedy"),
    [
        (None, NOTE, 'ann may not read "s"."ff_attachment"', 'GRANT SELECT ON "s"."ff_attachment" TO "ann";'),
        ([], OK, "none", ""),
        ([("one", "t1", True, True), ("two", "t2", True, True)], OK, "one, two", ""),
        (
            [("one", "t1", True, True), ("it's", "t2", False, False)],
            NOTE,
            "t2 is gone",
            """detach postgresql://ann@db/shop 'it'"'"'s' --schema s""",
        ),
        (
            [("one", "t1", True, False)],
            WARNING,
            "triggers on t1 are missing",
            "attach postgresql://ann@db/shop --name one --schema s",
        ),
    ],
)
def test_tables_of_jobs(rows: Sequence[tuple[Any, ...]] | None, verdict: Verdict, found: str, remedy: str) -> None:
    it = say.attachments(rows, "s", "ann", HERE)
    assert (it.verdict, found in it.found, remedy in it.remedy, bool(it.remedy)) == (verdict, True, True, bool(remedy))


def holder(pid: int, age_s: float | None, prepared: str | None = None) -> Holder:
    return Holder(pid, "app", "active", age_s, "2026-01-01", "SELECT 1", prepared)


@pytest.mark.parametrize(
    ("holders", "verdict", "found", "remedy"),
    [
        ([], OK, "nothing holds it back", ""),
        ([holder(1, 59.9), holder(2, 1.0)], OK, "transactions that write: 2, none for long", ""),
        ([holder(1, None), holder(2, 60.0)], WARNING, "held back for 60 s by pid 2", "pg_terminate_backend(2)"),
        ([holder(1, 1.0), holder(0, 2.0, "p")], WARNING, "held back by the prepared transaction 'p'", "ROLLBACK PREPARED 'p'"),
        ([holder(1, None), holder(2, 1.0)], NOTE, "pid 1 may hold it back; ann may not see", 'GRANT pg_read_all_stats TO "ann";'),
    ],
)  # fmt: skip
def test_who_holds_the_watermark(holders: list[Holder], verdict: Verdict, found: str, remedy: str) -> None:
    it = say.watermark(holders, "ann")
    assert (it.verdict, found in it.found, remedy in it.remedy, bool(it.remedy)) == (verdict, True, True, bool(remedy))
