"""From a new user's shell: attach, wait, tail, look, detach."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach, attached
from ffcompletion.attaching.naming import check_attached
from ffcompletion.contract.diagnosis import Verdict
from ffcompletion.doctor import examine
from tests.doors.cli.commands import FFC, sh
from tests.worlds.attaching import clean, database

OPTIONS = (
    "--name reports --table app.reports --key id --state status --outcome done=success --outcome error=failed"
    " --namespace tenant --flow batch_id --result output --tag queue=queue_name"
)


@pytest.fixture(scope="module")
def server(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, "attach_cli") as url:
        yield url


async def test_a_session(server: str, tmp_path: Path) -> None:
    """The guide's commands, one after the other; and each mistake is one line and status 2."""
    clean(server)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE app.reports (id int PRIMARY KEY, status text, tenant text, batch_id uuid, output text, queue_name text)"
        )
        conn.execute(
            "INSERT INTO app.reports VALUES (1, 'done', 'a', NULL, 'one', 'q'), (2, 'queued', 'a', NULL, NULL, 'q')"
        )
        status, out, err = await sh(f'ffcompletion attach "$1" {OPTIONS}', server)
        assert (status, out) == (
            0,
            "app.reports is attached as reports; 2 jobs that were there have been recorded\n",
        ), err
        status, out, _ = await sh('ffcompletion attached "$1"', server)
        assert (status, out) == (0, "reports\tapp.reports\tworking\t2 jobs, 1 finished\n")
        waiting, tailing = (
            asyncio.create_task(sh(script, server))
            for script in (
                'ffcompletion wait "$1" --attached reports 1 2 --timeout 30 --json --result',
                'ffcompletion tail "$1" --attached reports --count 1 --timeout 30 --json --from beginning',
            )
        )
        await asyncio.sleep(1)
        conn.execute("UPDATE app.reports SET status = 'error', output = 'two' WHERE id = 2")
        status, out, err = await waiting
        lines = sorted(map(json.loads, out.splitlines()), key=lambda line: line["result"])
        assert (status, [(line["result"], line["outcome"]) for line in lines]) == (
            1,
            [("one", "success"), ("two", "failed")],
        ), err
        status, out, err = await tailing
        assert (status, json.loads(out)["key"], json.loads(out)["execution_id"]) == (
            0,
            2,
            ffc.attached_id("reports", 2),
        ), err
        status, out, _ = await sh('ffcompletion wait "$1" --attached reports 1', server)
        assert (status, out.split()[1:]) == (0, ["success", "reports", "1"])
        status, _, err = await sh('ffcompletion wait "$1" --attached reports 7', server)
        assert (status, err.startswith("ffcompletion: not found: job 7 of reports")) == (2, True), err
        conn.execute("INSERT INTO app.reports VALUES (3, 'queued')")
        status, _, err = await sh('ffcompletion wait "$1" --attached reports 3 --timeout 0', server)
        assert (status, "reports 3 has not finished" in err) == (124, True), err
        conn.execute("DELETE FROM app.reports WHERE id = 3")
        # What no trigger saw is told when it is attached again, for which its name is enough.
        conn.execute("ALTER TABLE app.reports DISABLE TRIGGER USER")
        conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 2")
        status, out, _ = await sh('ffcompletion attached "$1"', server)
        assert (status, "NOT WORKING: attach it again (--name reports, and the URL as here)" in out) == (0, True)
        (it,) = [it for it in await examine(server) if it.check == "attached tables"]
        assert it.verdict is Verdict.WARNING
        assert it.remedy is not None
        assert it.remedy.endswith(" --name reports --schema public")
        status, out, err = await sh(it.remedy, server)
        assert (status, out.rstrip().endswith("; 1 ends that had been missed have been announced")) == (0, True), err
        (it,) = [it for it in await examine(server) if it.check == "attached tables"]
        assert (it.verdict, it.found) == (Verdict.OK, "reports")
        conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 2")
        status, out, _ = await sh('ffcompletion detach "$1" reports --sql', server)
        assert (status, "DROP TRIGGER" in out) == (0, True)
        assert (await sh('ffcompletion detach "$1" reports', server))[:2] == (0, "reports is detached\n")
        mine = tmp_path / "mine.toml"
        mine.write_text(
            'name = "mine"\ntable = "app.reports"\nkey = "id"\nstate = "status"\noutcomes = { done = "success" }\n'
        )
        status, out, err = await sh(
            'ffcompletion attach "$1" --preset-file "$2" --pending queued --sql', server, str(mine)
        )
        assert (status, out.count('CREATE TRIGGER "ff_')) == (0, 4), err
        for words, message in [
            ('--preset-file "$2" --pending queued', "no outcome is given for 'error'"),
            ("reports", "there are dbos, django-tasks, pgqueuer, procrastinate"),
            ("--name x", "'x' is not attached here, nothing is"),
            ("--name x", "missing: --key, --outcome, --state, --table"),
            ("procrastinate", "procrastinate_jobs is not there"),
            ("procrastinate --outcome done", "--outcome needs NAME=VALUE"),
        ]:
            status, out, err = await sh(f'ffcompletion attach "$1" {words}', server, str(mine))
            assert (status, out) == (2, ""), err
            assert message in " ".join(err.replace("│", " ").split())
            assert "Traceback" not in err
    status, _, err = await sh('ffcompletion detach "$1" reports', server)
    assert (status, "not found: attachment 'reports'" in err) == (2, True)


async def test_a_name_that_nothing_is_attached_under(server: str) -> None:
    """Said at once, with the names that there are, instead of waiting for jobs that never come."""
    clean(server)
    with psycopg.connect(server, autocommit=True) as conn:
        scripts = [
            'ffcompletion tail "$1" --attached report --timeout 20',
            'ffcompletion wait "$1" --attached report 1 --timeout 20',
            'ffcompletion wait "$1" --attached report 1 --missing wait --timeout 20',
            'ffcompletion detach "$1" report',
            'ffcompletion detach "$1" report --sql',
        ]

        async def all_say(message: str, scripts: list[str]) -> None:
            answers = await asyncio.gather(*(sh(script, server) for script in scripts))
            for status, out, err in answers:
                said = f"ffcompletion: not found: attachment 'report'; {message}\n"
                assert (status, out, err.splitlines(keepends=True)) == (2, "", [said])

        await all_say("nothing is attached here", scripts)
        conn.execute("CREATE TABLE app.reports (id int PRIMARY KEY, status text)")
        one = Definition(name="reports", table="app.reports", key="id", state="status", outcomes={"done": "success"})
        attach(server, one)
        await all_say("attached here: 'reports'", scripts)
        # Who may follow the stream and not read the names is let through, not refused for it.
        conn.execute("DROP ROLE IF EXISTS attached_reader")
        conn.execute("CREATE ROLE attached_reader LOGIN")
        try:
            conn.execute("GRANT SELECT ON ff_completion_event, ff_exec_core TO attached_reader")
            await check_attached(make_conninfo(server, user="attached_reader"), "report")
        finally:
            conn.execute("DROP OWNED BY attached_reader")
            conn.execute("DROP ROLE attached_reader")
    status, _, err = await sh('ffcompletion tail "$1" --attached report', "valkey://localhost:1")
    assert (status, "tables of jobs are in Postgres" in err) == (2, True), err
    clean(server)


def test_recording_is_interrupted_and_goes_on(server: str) -> None:
    """Ctrl-C ends it within a moment, with what to do; run again, it records the rest."""
    clean(server)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("CREATE TABLE app.reports (id int PRIMARY KEY, status text)")
        conn.execute("INSERT INTO app.reports SELECT g, 'done' FROM generate_series(1, 200000) g")
        definition = ["--name", "reports", "--table", "app.reports", "--key", "id", "--state", "status"]
        words = ["attach", server, *definition, "--outcome", "done=success"]
        with subprocess.Popen([*FFC, *words], stderr=subprocess.PIPE, text=True) as process:
            # It is recording, and would be for a while.
            while conn.execute("SELECT to_regclass('ff_attachment')").fetchone() == (None,) or not any(
                each.jobs for each in attached(server)
            ):
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert (process.returncode, "interrupted; run again" in err, "Traceback" in err) == (130, True, False), err
        (found,) = attached(server)
        assert (found.working, 0 < found.jobs < 200_000) == (True, True)
        assert attach(server, found.definition).jobs == 200_000
        assert [(each.jobs, each.finished) for each in attached(server)] == [(200_000, 200_000)]
    clean(server)
