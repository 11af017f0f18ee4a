"""What is known about a table of jobs, as far as it can be checked without a server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import ffcompletion as ffc
from ffcompletion.attaching.definition import Definition, table_parts

JOBS = Definition(name="jobs", table="app.jobs", key="id", state="status", outcomes={"done": "success"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": {"done": "finished"}}, "done=finished: an outcome is one of success"),
        ({"outcomes": {"done": "other"}}, "an outcome is one of success"),
        ({"deleted": {"queued": "gone"}}, "queued=gone: an outcome is one of success"),
        ({"outcomes": {}}, "at least one state"),
        ({"outcomes": {"a\0": "success"}}, "state.*NUL"),
        ({"pending": ("a", "\ud800")}, "state.*UTF-8"),
        ({"pending": ("done",)}, "done is both finished and unfinished"),
        ({"deleted": {"done": "failed"}}, "deleting it announces nothing"),
        ({"table": "a.b.c"}, "schema.table"),
        ({"key": ""}, "column: a name has 1 to 63 bytes"),
        ({"tags": {"": "queue"}}, "tag: a name has 1 to 63 bytes"),
        ({"tags": {"key": "code"}}, "every job's already"),
        ({"tags": {"attachment": "code"}}, "every job's already"),
        ({"result_table": "a.b.c", "result": "r"}, "schema.table"),
        ({"result_table": "results"}, "the result's column or the error's is needed"),
        ({"result_key": "job"}, "belongs to a result_table"),
        ({"result_table": "results", "result_key": "", "error": "e"}, "column: a name has"),
        ({"name": ""}, "1 to 63 bytes"),
        ({"name": "é" * 32}, "1 to 63 bytes"),
        ({"name": "\ud800"}, "UTF-8"),
        ({"name": "a\0b"}, "NUL"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ffc.Validation, match=message):
        msgspec.structs.replace(JOBS, **changes).checked()


def test_what_is_right_is_itself() -> None:
    assert JOBS.checked() is JOBS
    for changes in ({"result_table": "results", "error": "e"}, {"deleted": {"*": "expired"}}, {"name": "é" * 31}):
        made = msgspec.structs.replace(JOBS, **changes)
        assert made.checked() is made


def test_which_columns_are_read() -> None:
    """Each once; of a table of results its key first, and then not of the table of jobs."""
    jobs = msgspec.structs.replace(
        JOBS, namespace="tenant", flow="batch", result="r", error="e", history="at", tags={"queue": "queue", "who": "tenant"}
    )  # fmt: skip
    assert jobs.columns == ["id", "status", "tenant", "batch", "at", "queue", "r", "e"]
    assert jobs.result_columns == []
    beside = msgspec.structs.replace(jobs, result_table="results", error=None)
    assert beside.columns == ["id", "status", "tenant", "batch", "at", "queue"]
    assert beside.result_columns == ["id", "r"]
    assert msgspec.structs.replace(beside, result_key="job").result_columns == ["job", "r"]


def test_which_states_mean_that_a_job_has_not_finished() -> None:
    """Those that are named, else the usual words in any case; and no state at all."""
    named = msgspec.structs.replace(JOBS, pending=("waits",))
    assert [named.is_pending(state) for state in ("waits", "", "queued", "Waits")] == [True, True, False, False]
    assert [JOBS.is_pending(state) for state in ("Queued", "", "done", "waits")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("jobs", (None, "jobs")),
        ("app.jobs", ("app", "jobs")),
        ('"a.b"."c""d"', ("a.b", 'c"d')),
        ('app."My Jobs"', ("app", "My Jobs")),
    ],
)
def test_a_table_s_schema_and_name(text: str, parts: tuple[str | None, str]) -> None:
    assert table_parts(text) == parts


@pytest.mark.parametrize(
    "text", ["", ".", "app.", ".jobs", "a.b.c", 'a"b', '"a"b', '""', '"a', "x" * 64, "a\0", "a.\ud800"]
)
def test_what_names_no_table_is_refused(text: str) -> None:
    with pytest.raises(ffc.Validation, match="table"):
        table_parts(text)
