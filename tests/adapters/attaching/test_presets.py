"""The presets, against each library's own schema of today and its own worker: what is told is what the library says."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach, attached, detach, preset
from ffcompletion.attaching.definition import table_parts
from ffcompletion.attaching.quoting import function_name
from ffcompletion.backends.postgres import PostgresBackend
from tests import ROOT
from tests.worlds.attaching import database, rows, told

PROGRAMS = {"procrastinate": "procrastinate", "pgqueuer": "pgqueuer", "dbos": "dbos", "django-tasks": "django"}


def url_of(name: str, server: str) -> str:
    if name != "dbos":
        return server
    # sqlalchemy wants a URL.
    given = conninfo_to_dict(server)
    return f"postgresql://{given['user']}@/{given['dbname']}?host={given['host']}&port={given.get('port', 5432)}"


def start(name: str, server: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.programs.attach_{PROGRAMS[name]}", url_of(name, server), *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}, start_new_session=True,
    )  # fmt: skip


def run(name: str, server: str, *words: str) -> None:
    with start(name, server, *words) as process:
        _, err = process.communicate(timeout=55)
    assert process.returncode == 0, err[-3000:]


@contextmanager
def schemas(server: str) -> Iterator[str]:
    with database(server, "attach_presets") as url:
        # All four side by side, as data of one application may be.
        started = [start(name, url, "schema") for name in PROGRAMS]
        ended = [(process.communicate(timeout=58), process.returncode) for process in started]
        for (_, err), status in ended:
            assert status == 0, err[-3000:]
        yield url


@pytest.fixture(scope="module")
def server16(postgres16_url: str) -> Iterator[str]:
    with schemas(postgres16_url) as url:
        yield url


@pytest.fixture(scope="module")
def server18(postgres18_url: str) -> Iterator[str]:
    with schemas(postgres18_url) as url:
        yield url


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """Of the newer version, where a test does not say."""
    url: str = request.getfixturevalue(f"server{getattr(request, 'param', 18)}")
    return url


ON_BOTH = pytest.mark.parametrize("server", [16, 18], ids=["postgres16", "postgres18"], indirect=True)
ON_16 = pytest.mark.parametrize("server", [16], ids=["postgres16"], indirect=True)


def outcomes_by_table(conn: psycopg.Connection, definition: Definition) -> dict[str, str | None]:
    """What the library says, job by job: an outcome, or None while it has not finished."""
    schema, name = table_parts(definition.table)
    from_ = psycopg.sql.Identifier(*([schema] if schema else []), name)
    newest = psycopg.sql.SQL(", {} DESC").format(psycopg.sql.Identifier(definition.history or definition.key))
    found = conn.execute(
        psycopg.sql.SQL(
            "SELECT DISTINCT ON ({key}) {key}::text, {state}::text FROM {table} ORDER BY {key}{newest}"
        ).format(
            key=psycopg.sql.Identifier(definition.key),
            state=psycopg.sql.Identifier(definition.state),
            table=from_,
            newest=newest,
        )
    ).fetchall()
    return {key: definition.outcomes.get(state) for key, state in found}


def agrees(conn: psycopg.Connection, definition: Definition, before: Collection[str] = ()) -> None:
    """For every job: its record, and the last that was told of it, unless it had finished ``before``."""
    says = outcomes_by_table(conn, definition)
    last = dict(told(conn))
    records = dict(
        rows(
            conn,
            "SELECT raw_fields->'tags'->>'key', raw_fields->>'attached_outcome' FROM ff_exec_core"
            " WHERE raw_fields->>'attachment' = %s",
            definition.name,
        )
    )
    for key, outcome in says.items():
        assert records[key] == outcome, key
        assert last.get(key) == (None if key in before else outcome), key


@pytest.fixture
def attach_preset(server: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server, autocommit=True) as conn:
        yield conn
        for each in attached(server):
            detach(server, each.definition.name)


EXPECTED = {
    "procrastinate": {"success": 2, "failed": 1, "cancelled": 3},
    "pgqueuer": {"success": 2, "failed": 2, "cancelled": 2},
    "dbos": {"success": 5, "failed": 1, "cancelled": 3},
    "django-tasks": {"success": 1, "failed": 1, "cancelled": 1},
}


@ON_BOTH
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_way_that_a_job_can_go(server: str, attach_preset: psycopg.Connection, name: str) -> None:
    """Succeeds, fails, is retried, cancelled, aborted, timed out, deleted: as often as the library says, and as it says."""
    definition = preset(name)
    attach(server, definition)
    run(name, server, "story")
    agrees(attach_preset, definition)
    assert outcomes_by_table(attach_preset, definition)
    assert Counter(outcome for _, outcome in told(attach_preset)) == EXPECTED[name]


@ON_16
@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_worker_that_is_killed(server: str, attach_preset: psycopg.Connection, name: str) -> None:
    """kill -9 in the middle of a job: nothing is told, whoever waits goes on waiting; recovered, it is told."""
    definition = preset(name)
    before = outcomes_by_table(attach_preset, definition)
    attach(server, definition)
    process = await asyncio.to_thread(start, name, server, "hang")
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "hanging\n"
    unfinished = [key for key, outcome in outcomes_by_table(attach_preset, definition).items() if outcome is None]
    (key,) = unfinished
    async with PostgresBackend(server) as backend:
        id_ = ffc.attached_id(name, key)
        waiting = asyncio.create_task(ffc.wait_for_completion(backend, id_, timeout=50))
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
        found = await backend.describe_execution(id_)
        assert found is not None
        assert not found.is_terminal
        assert told(attach_preset) == []
        if name == "django-tasks":
            # Nothing recovers it there; somebody clears it away.
            attach_preset.execute("DELETE FROM django_tasks_database_dbtaskresult WHERE status = 'RUNNING'")
            assert (await waiting).outcome == "cancelled"
        else:
            await asyncio.to_thread(run, name, server, "recover")
            assert (await waiting).outcome == "success"
    agrees(attach_preset, definition, before)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_missed_is_told_when_it_is_attached_again(
    server: str, attach_preset: psycopg.Connection, name: str
) -> None:
    """The library's own worker finishes its jobs while the triggers are off: each end is told once, as the library says."""
    definition = preset(name)
    before = outcomes_by_table(attach_preset, definition)
    attach(server, definition)
    table = psycopg.sql.Identifier(*(part for part in table_parts(definition.table) if part))
    attach_preset.execute(psycopg.sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table))
    if name == "procrastinate":
        # Its own triggers stay.
        attach_preset.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        for kind in ("insert", "state", "key", "delete"):
            trigger = psycopg.sql.Identifier(f"{function_name(name)}_{kind}")
            attach_preset.execute(psycopg.sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(table, trigger))
    run(name, server, "story")
    assert told(attach_preset) == []
    ended = [
        key for key, outcome in outcomes_by_table(attach_preset, definition).items() if outcome and key not in before
    ]
    assert ended
    assert attach(server, definition).missed == len(ended)
    agrees(attach_preset, definition, before)
    assert sorted(key for key, _ in told(attach_preset)) == sorted(ended)
    assert attach(server, definition).missed == 0


def test_a_worker_that_deletes_what_has_finished(server: str, attach_preset: psycopg.Connection) -> None:
    """procrastinate with delete_jobs = "successful": the success is told by the deletion, the failure by its state."""
    attach(server, preset("procrastinate"), record=False)
    run("procrastinate", server, "deleting")
    assert sorted(outcome for _, outcome in told(attach_preset)) == ["failed", "success"]


def test_a_thousand_jobs_by_ten_workers(server: str, attach_preset: psycopg.Connection) -> None:
    """Each is told once."""
    definition = preset("procrastinate")
    attach_preset.execute("DELETE FROM procrastinate_jobs")
    attach(server, definition)
    run("procrastinate", server, "many", "1000", "10")
    agrees(attach_preset, definition)
    assert Counter(Counter(told(attach_preset)).values()) == {1: 1000}


def test_results_and_tags(server: str, attach_preset: psycopg.Connection) -> None:
    """What a preset says of a job beside its outcome."""
    attach(server, preset("django-tasks"))
    run("django-tasks", server, "story")
    found = {
        outcome: (result, tags)
        for outcome, result, tags in rows(
            attach_preset, "SELECT raw_fields->>'attached_outcome', result, raw_fields->'tags' FROM ff_exec_core"
        )
    }
    assert found["success"][0].decode() in ('{"said": "é"}', '{"said": "\\u00e9"}')
    assert b"as it should" in found["failed"][0]
    assert found["success"][1]["task"] == "tests.programs.attach_django_tasks.succeed"
    assert found["success"][1]["queue"] == "default"


async def test_what_a_workflow_returned(server: str, attach_preset: psycopg.Connection) -> None:
    """DBOS's outputs and errors, as DBOS wrote them: told with the end, and of what was there before as well."""
    for again in (False, True):
        if again:
            detach(server, "dbos")
        attach(server, preset("dbos"))
        if not again:
            run("dbos", server, "results")
        async with PostgresBackend(server) as backend:
            found = {}
            for key in ("returns-json", "returns-pickle", "raises"):
                id_ = ffc.attached_id("dbos", key)
                done = await ffc.wait_for_completion(backend, id_, timeout=20, result=True)
                described = await backend.describe_execution(id_)
                assert described is not None
                found[key] = done.outcome, described.tags["serialization"], done.payload_bytes or b""
        assert found["returns-json"] == ("success", "portable_json", b'{"total":42,"said":"\xc3\xa9"}')
        outcome, serialization, result = found["returns-pickle"]
        assert (outcome, serialization) == ("success", "py_pickle")
        assert pickle.loads(base64.b64decode(result)) == {"total": 42, "said": "é"}
        outcome, serialization, result = found["raises"]
        assert (outcome, serialization, json.loads(result)["message"]) == ("failed", "portable_json", "as it should")
