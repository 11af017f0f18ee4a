"""The doctor before a Postgres in the very condition that each check is for; the remedy is pasted, and helps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
import pytest

from ffcompletion.attaching import Definition, attach
from ffcompletion.backends.postgres import doctor as postgres_doctor
from ffcompletion.backends.postgres import doctor_findings
from ffcompletion.backends.postgres import status as postgres_status
from ffcompletion.backends.valkey import doctor as valkey_doctor
from ffcompletion.contract.diagnosis import Finding, exit_status
from ffcompletion.doctor import examine
from ffcompletion.producers import text
from tests.adapters.examined import FAILURE, NOTE, OK, WARNING, found, sql
from tests.doors.cli.commands import FFC
from tests.worlds.proxy import Proxy
from tests.worlds.servers import Authority, free_ports, pgbouncer, standby_of
from tests.worlds.templates import ENGINE_PARTITIONS, postgres

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A server of its own with the engine's tables: what is wrong with it is the test's doing alone."""
    with postgres(version=18, partitions=ENGINE_PARTITIONS) as server:
        sql(server.url, "ANALYZE")
        yield server.url


@contextmanager
def role(database: str, *statements: str, drop: str = "") -> Iterator[str]:
    """The URL for a new role, of whom these are true."""
    sql(database, "DROP ROLE IF EXISTS patient", "CREATE ROLE patient LOGIN", *statements)
    yield database.replace("postgres@", "patient@").replace("user=postgres", "user=patient")
    sql(database, "DROP OWNED BY patient", "DROP ROLE patient", *([drop] if drop else []))


async def test_a_server_that_is_well(database: str) -> None:
    """Nothing but ok, also for a role whose every transaction is read-only; and no session stays behind."""
    grants = [
        "GRANT SELECT ON ff_completion_event, ff_exec_core TO patient",
        "ALTER ROLE patient SET default_transaction_read_only = on",
    ]
    with role(database, *grants) as url:
        findings = await examine(url)
    assert [it for it in findings if it.verdict is not OK] == []
    assert exit_status(findings) == 0
    assert {"connection", "TLS", "version", "role", "clocks", "table ff_completion_event", "table ff_exec_core", "trigger",
            "row-level security", "notification queue", "lock table", "sessions", "time-outs", "sequence", "statistics",
            "watermark", "echo"} == {it.check for it in findings}  # fmt: skip
    assert sql(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion doctor'") == [
        (0,)
    ]


@pytest.mark.parametrize(
    ("given", "lacking", "check", "text"),
    [
        ([], "ff_completion_event", "table ff_completion_event", "may not use schema"),
        (["GRANT USAGE ON SCHEMA hidden TO patient"], "", "table ff_completion_event", "may not read"),
        (["GRANT USAGE ON SCHEMA hidden TO patient", "GRANT SELECT ON hidden.ff_completion_event TO patient"], "",
         "table ff_exec_core", "may not read"),
    ],
    ids=["schema", "outbox", "core"],
)  # fmt: skip
async def test_a_missing_right_is_named_and_the_remedy_grants_it(
    database: str, given: list[str], lacking: str, check: str, text: str
) -> None:
    """Schema, outbox, core."""
    sql(
        database, "DROP SCHEMA IF EXISTS hidden CASCADE", "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.ff_completion_event (event_id bigint)", "CREATE TABLE hidden.ff_exec_core (id bigint)",
    )  # fmt: skip
    with role(database, *given) as url:
        it = await found(url, check, "hidden")
        assert (it.verdict, text in it.found) == (FAILURE, True), it
        assert it.remedy.startswith("GRANT")
        sql(database, it.remedy)
        assert text not in (await found(url, check, "hidden")).found
    sql(database, "DROP SCHEMA hidden CASCADE")


async def test_tables_that_are_not_there_or_elsewhere(database: str) -> None:
    """None at all: install them; in another schema: name it."""
    sql(database, "DROP DATABASE IF EXISTS empty", "CREATE DATABASE empty")
    empty = database.replace("/postgres?", "/empty?")
    it = await found(empty, "table ff_completion_event")
    assert (it.verdict, "producers install" in it.remedy) == (FAILURE, True)
    sql(
        empty,
        "CREATE SCHEMA flow",
        "CREATE TABLE flow.ff_completion_event (i int)",
        "CREATE TABLE flow.ff_exec_core (i int)",
    )
    it = await found(empty, "table ff_completion_event")
    assert (it.verdict, "--schema flow" in it.remedy) == (FAILURE, True)
    it = await found(empty, "trigger", "flow")
    assert (it.verdict, "none announces" in it.found) == (WARNING, True)
    sql(database, "DROP DATABASE empty WITH (FORCE)")
    assert database


async def test_row_level_security_that_applies(database: str) -> None:
    """Rows that a policy hides would be lost without a word."""
    grants = [
        "GRANT SELECT ON ff_completion_event, ff_exec_core TO patient",
        "ALTER TABLE ff_exec_core ENABLE ROW LEVEL SECURITY",
    ]
    with role(database, *grants, drop="ALTER TABLE ff_exec_core DISABLE ROW LEVEL SECURITY") as url:
        it = await found(url, "row-level security")
        assert (it.verdict, "patient" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(url, "row-level security")).verdict is OK


async def test_a_trigger_that_is_disabled_or_missing(database: str) -> None:
    """On one partition of 256, by name."""
    sql(database, "ALTER TABLE ff_completion_event_p17 DISABLE TRIGGER ff_notify_completion")
    it = await found(database, "trigger")
    assert (it.verdict, "ff_completion_event_p17" in it.found) == (WARNING, True)
    sql(database, it.remedy)
    assert (await found(database, "trigger")).verdict is OK
    ((made,),) = sql(
        database,
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'ff_notify_completion'"
        " AND tgrelid = 'ff_completion_event'::regclass",
    )
    each = (
        "DO $$ DECLARE leaf regclass; BEGIN FOR leaf IN SELECT relid FROM pg_partition_tree('ff_completion_event') WHERE isleaf"
        " AND relid <> 'ff_completion_event_p18'::regclass LOOP EXECUTE format('%s', leaf); END LOOP; END $$"
    )
    sql(database, "DROP TRIGGER ff_notify_completion ON ff_completion_event")
    try:
        it = await found(database, "trigger")
        assert (it.verdict, "none announces" in it.found, "producers install" in it.remedy) == (WARNING, True, True)
        # On each partition by itself, but one.
        sql(
            database,
            each.replace("%s", str(made).replace(" ON public.ff_completion_event ", " ON %s ").replace("'", "''")),
        )
        it = await found(database, "trigger")
        assert (it.verdict, "missing on ff_completion_event_p18:" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(database, "trigger")).verdict is OK
    finally:
        sql(database, each.replace("%s", "DROP TRIGGER IF EXISTS ff_notify_completion ON %s"))
        sql(database, "DROP TRIGGER IF EXISTS ff_notify_completion ON ff_completion_event_p18", str(made))


async def test_plain_tables_of_our_producers(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables without partitions: their trigger is seen, works or is disabled; they are counted, and about how many rows."""
    sql(database, "CREATE SCHEMA plain", f"SET search_path = plain; {text('postgres')}")
    try:
        it = await found(database, "trigger", "plain")
        assert (it.verdict, it.found) == (OK, "enabled on 1 table"), it
        assert "1 of 1 tables were never analyzed" in (await found(database, "statistics", "plain")).found
        sql(database, "ALTER TABLE plain.ff_completion_event DISABLE TRIGGER ff_announce_completions")
        it = await found(database, "trigger", "plain")
        assert (it.verdict, "plain.ff_completion_event" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(database, "trigger", "plain")).verdict is OK
        sql(
            database,
            "INSERT INTO plain.ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " SELECT 1, gen_random_uuid(), 'success', 1 FROM generate_series(1, 30)",
            "ANALYZE plain.ff_completion_event",
        )
        monkeypatch.setattr(postgres_status, "_COUNTED", 10)
        assert (await postgres_status.status(database, "plain"))["rows"] == "about 30"
    finally:
        sql(database, "DROP SCHEMA plain CASCADE")


async def test_tables_of_jobs_that_are_attached(database: str) -> None:
    """Their triggers work, do not, may not be looked at, or the table is gone."""
    sql(database, "CREATE SCHEMA jobs", "CREATE TABLE jobs.reports (id int PRIMARY KEY, status text)")
    definition = Definition(name="it's", table="jobs.reports", key="id", state="status", outcomes={"done": "success"})
    try:
        attach(database, definition, schema="jobs")
        it = await found(database, "attached tables", "jobs")
        assert (it.verdict, it.found) == (OK, "it's")
        sql(database, "ALTER TABLE jobs.reports DISABLE TRIGGER USER")
        it = await found(database, "attached tables", "jobs")
        assert (it.verdict, "jobs.reports" in it.found, it.remedy.endswith("""--name 'it'"'"'s' --schema jobs""")) == (
            WARNING,
            True,
            True,
        )
        readable = "GRANT SELECT ON jobs.ff_completion_event, jobs.ff_exec_core TO patient"
        # Another schema's attachment of the same name says nothing of this one.
        sql(database, "CREATE SCHEMA others", "CREATE TABLE others.reports (id int PRIMARY KEY, status text)")
        attach(database, msgspec.structs.replace(definition, table="others.reports"), schema="others")
        assert (await found(database, "attached tables", "jobs")).verdict is WARNING
        assert (await found(database, "attached tables", "others")).verdict is OK
        sql(database, "DROP SCHEMA others CASCADE")
        with role(database, "GRANT USAGE ON SCHEMA jobs TO patient", readable) as url:
            it = await found(url, "attached tables", "jobs")
            assert (it.verdict, "may not read" in it.found) == (NOTE, True)
            sql(database, it.remedy)
            assert (await found(url, "attached tables", "jobs")).verdict is WARNING
        sql(database, "DROP TABLE jobs.reports")
        it = await found(database, "attached tables", "jobs")
        assert (it.verdict, "detach" in it.remedy) == (NOTE, True)
    finally:
        sql(database, "DROP SCHEMA jobs CASCADE")


async def test_a_sequence_that_caches_and_tables_never_analyzed(database: str) -> None:
    """The one is a warning, the other a note, which is no reason to worry."""
    sql(database, "ALTER SEQUENCE ff_completion_event_event_id_seq CACHE 20")
    it = await found(database, "sequence")
    assert (it.verdict, "CACHE 20" in it.found) == (WARNING, True)
    sql(database, it.remedy)
    assert (await found(database, "sequence")).verdict is OK


async def test_who_holds_the_watermark_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open transaction by pid, application and query; a prepared one by its name. The remedy ends it."""
    insert = (
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
        " VALUES (1, gen_random_uuid(), 'success', 1)"
    )
    with psycopg.connect(database, application_name="forgetful") as holder:
        holder.execute(insert.encode())
        it = await found(database, "watermark")
        assert it.verdict is OK, "a young one is nothing to worry about"
        assert "1" in it.found
        monkeypatch.setattr(doctor_findings, "_LONG_S", 0.0)
        it = await found(database, "watermark")
        assert it.verdict is WARNING
        assert all(
            word in it.found
            for word in (str(holder.info.backend_pid), "forgetful", "idle in transaction", "INSERT INTO")
        )
        with role(database, "GRANT SELECT ON ff_completion_event, ff_exec_core TO patient") as url:
            unseen = await found(url, "watermark")
            assert (unseen.verdict, str(holder.info.backend_pid) in unseen.found) == (NOTE, True)
            sql(database, unseen.remedy)
            assert (await found(url, "watermark")).verdict is WARNING
        sql(database, it.remedy)
        assert (await found(database, "watermark")).verdict is OK
        holder.close()
    sql(database, "ALTER TABLE ff_completion_event DISABLE TRIGGER ALL")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("BEGIN")
        conn.execute(insert.encode())
        conn.execute("PREPARE TRANSACTION 'it''s forgotten'")
    try:
        it = await found(database, "watermark")
        assert (it.verdict, "forgotten" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(database, "watermark")).verdict is OK
    finally:
        for (gid,) in sql(database, "SELECT quote_literal(gid) FROM pg_prepared_xacts"):
            sql(database, f"ROLLBACK PREPARED {gid}")
        sql(database, "ALTER TABLE ff_completion_event ENABLE TRIGGER ALL")


async def test_time_outs_of_the_role(database: str) -> None:
    """One that ends the listening session is undone by the remedy."""
    grant = "GRANT SELECT ON ff_completion_event, ff_exec_core TO patient"
    with role(database, grant, "ALTER ROLE patient SET idle_session_timeout = '5min'") as url:
        it = await found(url, "time-outs")
        assert (it.verdict, "idle_session_timeout=300000" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(url, "time-outs")).verdict is OK
        sql(database, "ALTER ROLE patient SET statement_timeout = '200ms'")
        it = await found(url, "time-outs")
        assert (it.verdict, "statement_timeout=200" in it.found) == (WARNING, True)
        sql(database, it.remedy)
        assert (await found(url, "time-outs")).verdict is OK


async def test_a_notification_queue_that_is_empty(database: str) -> None:
    assert (await found(database, "notification queue")).found == "0% used"


@pytest.mark.parametrize("offset", [100.0, -100.0])
async def test_clocks_that_differ(
    database: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    """Ahead and behind, on both servers."""
    clock = SimpleNamespace(time=lambda: time.time() + offset, monotonic=time.monotonic)
    for module, url in ((postgres_doctor, database), (valkey_doctor, valkey_url)):
        assert (await found(url, "clocks")).verdict is OK
        monkeypatch.setattr(module, "time", clock)
        it = await found(url, "clocks")
        assert (it.verdict, ("behind" if offset > 0 else "ahead") in it.found) == (WARNING, True)


async def test_behind_a_transaction_pooler(postgres18_url: str, tmp_path: Path) -> None:
    """It accepts LISTEN and hears nothing."""
    with pgbouncer(postgres18_url, tmp_path) as url:
        findings = await examine(url)
    (it,) = [it for it in findings if it.check == "echo"]
    assert (it.verdict, "pooler" in it.found, "session" in it.remedy) == (WARNING, True, True)
    assert exit_status(findings) == 1


async def test_tls_of_a_postgres(
    database: str, postgres18_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified is well, encrypted alone a note that the remedy mends; no CA, another's, no TLS at all: each by its name."""
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    key, chain = tmp_path / "server.key", tmp_path / "server.pem"
    issued = authority.issuer.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(chain))
    key.chmod(0o644)
    encrypted = {"client_tls_sslmode": "require", "client_tls_key_file": key, "client_tls_cert_file": chain}
    with pgbouncer(postgres18_url, tmp_path, "session", **encrypted) as url:
        port = psycopg.conninfo.conninfo_to_dict(url)["port"]
        at = f"postgresql://postgres@localhost:{port}/postgres"
        it = await found(f"{at}?sslmode=require", "TLS")
        assert (it.verdict, "sslmode=require" in it.found) == (NOTE, True)
        assert it.remedy == "sslmode=verify-full in the URL"
        assert (await found(f"{at}?sslmode=verify-full&sslrootcert={authority.ca}", "TLS")).verdict is OK
        for wrong in (f"sslmode=verify-full&sslrootcert={stranger.ca}", "sslmode=verify-full&sslrootcert=/nowhere.pem"):
            it = await found(f"{at}?{wrong}", "connection")
            assert (it.verdict, "sslrootcert" in it.remedy) == (FAILURE, True), it
        it = await found(f"{at}?sslmode=disable", "connection")
        assert (it.verdict, "sslmode" in it.remedy) == (FAILURE, True), it
        monkeypatch.setenv("PGSSLMODE", "verify-full")
        monkeypatch.setenv("PGSSLROOTCERT", authority.ca)
        it = await found(at, "TLS")
        assert (it.verdict, "verify-full" in it.found) == (OK, True), "as it is in force"
        monkeypatch.setenv("PGPORT", str(port))
        monkeypatch.setenv("PGHOST", "localhost")
        assert f"localhost:{port}" in (await found("postgresql://postgres@/postgres", "connection")).found
    monkeypatch.undo()
    directory = psycopg.conninfo.conninfo_to_dict(database)["host"]
    with Proxy(f"{directory}/.s.PGSQL.5432") as plain:
        it = await found(f"postgresql://postgres@localhost:{plain.port}/postgres?sslmode=require", "connection")
        assert (it.verdict, "sslmode" in it.remedy) == (FAILURE, True), it
        assert (await found(f"postgresql://postgres@localhost:{plain.port}/postgres", "TLS")).verdict is OK


async def test_on_a_replica() -> None:
    """What it is, how far behind, and that nothing can be listened to there."""
    with postgres(version=18) as primary:
        with standby_of(primary) as standby:
            # How far behind it is can be told once it has replayed something.
            with psycopg.connect(primary.url, autocommit=True) as conn:
                conn.execute("CREATE TABLE replayed ()")
            with psycopg.connect(standby.url, autocommit=True) as conn:
                while conn.execute("SELECT pg_last_xact_replay_timestamp()").fetchone() == (None,):
                    await asyncio.sleep(0.02)
            findings = {it.check: it for it in await examine(standby.url)}
    assert findings["role"].verdict is WARNING
    assert "behind" in findings["role"].found
    assert findings["echo"].verdict is WARNING
    assert findings["trigger"].verdict is OK


@pytest.mark.parametrize("case", ["password", "database", "refused"])
async def test_no_connection_says_why(database: str, case: str) -> None:
    """Each with what to do, and no password in it."""
    hba = Path(sql(database, "SHOW hba_file")[0][0])
    before = hba.read_text()
    (port,) = free_ports(1)
    try:
        if case == "password":
            hba.write_text("local all intruder scram-sha-256\n" + before)
            sql(
                database,
                "DROP ROLE IF EXISTS intruder",
                "CREATE ROLE intruder LOGIN PASSWORD 'right'",
                "SELECT pg_reload_conf()",
            )
            await asyncio.sleep(0.3)
            url = psycopg.conninfo.make_conninfo(database, user="intruder", password="hunter2")
        elif case == "database":
            url = psycopg.conninfo.make_conninfo(database, dbname="nowhere")
        else:
            url = f"postgresql://me:hunter2@127.0.0.1:{port}/app"
        (it,) = await examine(url)
    finally:
        hba.write_text(before)
        sql(database, "SELECT pg_reload_conf()")
    wanted = {"password": "wrong password", "database": 'CREATE DATABASE "nowhere"', "refused": "pg_isready"}[case]
    assert it.verdict is FAILURE
    assert wanted in it.remedy, it
    assert "hunter2" not in it.found + it.remedy


async def test_a_service_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is asked for, and none is to be looked at."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none"))
    (it,) = await examine("service=nowhere")
    assert it.verdict is FAILURE
    assert "the service 'nowhere' in ~/.pg_service.conf" in it.remedy


async def test_a_server_that_falls_silent_while_it_is_asked(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that nobody can wait out, a freeze: bounded as well, and what was found before is kept."""
    from tests.worlds.proxy import Proxy

    directory = psycopg.conninfo.conninfo_to_dict(database)["host"]
    with Proxy(f"{directory}/.s.PGSQL.5432") as proxy:
        url = psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=str(proxy.port))
        frozen = threading.Timer(0.0, proxy.freeze)
        original = postgres_doctor._tls

        def tls(*words: Any) -> Finding:
            frozen.start()
            frozen.join()
            return original(*words)

        monkeypatch.setattr(postgres_doctor, "_tls", tls)
        async with asyncio.timeout(10):
            findings = await examine(url)
    assert [it.check for it in findings][:2] == ["connection", "TLS"]
    assert exit_status(findings) == 2


def test_the_command_tells_people_and_programs(database: str, valkey_url: str) -> None:
    """A table, JSON, and an exit status that says how bad it is; a URL that cannot be is one line."""
    done = subprocess.run([*FFC, "doctor", database], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "watermark" in done.stdout
    done = subprocess.run(
        [*FFC, "doctor", valkey_url, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"]) == (0, 0)
    assert {"check", "verdict", "found", "remedy"} == set(told["findings"][0])
    sql(database, "ALTER TABLE ff_completion_event_p3 DISABLE TRIGGER ff_notify_completion")
    done = subprocess.run([*FFC, "doctor", database], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    # Whole, on a line of its own, however narrow the table.
    assert "ALTER TABLE ff_completion_event_p3 ENABLE TRIGGER ff_notify_completion;" in done.stdout.splitlines()[-1]
    sql(database, "ALTER TABLE ff_completion_event_p3 ENABLE TRIGGER ff_notify_completion")
    (port,) = free_ports(1)
    done = subprocess.run(
        [*FFC, "doctor", f"valkey://127.0.0.1:{port}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    done = subprocess.run([*FFC, "doctor", "nonsense"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
