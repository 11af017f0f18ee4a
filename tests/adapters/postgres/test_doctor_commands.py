"""What the doctor says to do where it gets no connection, or no tables: pasted into a shell, with names that are hard to quote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ffcompletion.backends.postgres.doctor_commands import Commands, not_connected, quoted
from ffcompletion.contract.diagnosis import Verdict
from ffcompletion.doctor import examine
from ffcompletion.embedded import postgres_program
from tests.worlds.servers import pgbouncer
from tests.worlds.templates import postgres

pytestmark = pytest.mark.timeout(150)

ROLE = """O'Brien's "Rôle" %s \\ $HOME `id`"""
DATABASE = """My-App's "data" %d"""
SCHEMA = """The "Sch'ema\""""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A role and a database with such names, nothing in them."""
    with postgres(version=18) as server:
        run(server.url, f"CREATE ROLE {quoted(ROLE)} LOGIN")
        run(server.url, f"CREATE DATABASE {quoted(DATABASE)}")
        yield server.url


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as conn, conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def paste(command: str) -> str:
    """Into a shell, with the server's own psql in reach."""
    path = f"{postgres_program('psql').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PATH": path}
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


async def connects(url: str) -> bool:
    return next(it for it in await examine(url) if it.check == "connection").verdict is Verdict.OK


BROKEN = {
    "no such role": (f"ALTER ROLE {quoted(ROLE)} RENAME TO gone", "does not exist", f"DROP ROLE {quoted(ROLE)}; ALTER ROLE gone RENAME TO {quoted(ROLE)}"),
    "no login": (f"ALTER ROLE {quoted(ROLE)} NOLOGIN", "not permitted to log in", ""),
    "no such database": (f"ALTER DATABASE {quoted(DATABASE)} RENAME TO gone", "does not exist", ""),
    "no right to connect": (f"REVOKE CONNECT ON DATABASE {quoted(DATABASE)} FROM PUBLIC", "permission denied", ""),
    "the role's limit": (f"ALTER ROLE {quoted(ROLE)} CONNECTION LIMIT 0", "too many connections for role", ""),
    "the database's limit": (f"ALTER DATABASE {quoted(DATABASE)} CONNECTION LIMIT 0", "too many connections for database", ""),
    "closed": (f"ALTER DATABASE {quoted(DATABASE)} ALLOW_CONNECTIONS false", "not currently accepting", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
async def test_why_there_is_no_connection_and_the_command_that_mends_it(server: str, case: str) -> None:
    """The server's own words, and a command that can be pasted as it stands."""
    breaking, said, after = BROKEN[case]
    url = make_conninfo(server, user=ROLE, dbname=DATABASE)
    run(server, breaking)
    try:
        (it,) = await examine(url)
        assert (it.check, it.verdict, said in it.found) == ("connection", Verdict.FAILURE, True), it
        paste(it.remedy.removeprefix("close sessions, or: "))
        assert await connects(url)
    finally:
        run(server, *filter(None, after.split("; ")))


async def test_the_one_connection_that_a_role_may_have_is_not_enough(server: str) -> None:
    """A stream needs more than one; what to do about it is said, and helps."""
    url = make_conninfo(server, user=ROLE, dbname=DATABASE)
    run(server, f"ALTER ROLE {quoted(ROLE)} CONNECTION LIMIT 1")
    it = (await examine(url))[-1]
    assert (it.check, it.verdict, "too many connections for role" in it.found) == ("echo", Verdict.FAILURE, True), it
    paste(it.remedy.removeprefix("close sessions, or: "))
    it = (await examine(url))[-1]
    assert (it.check, it.verdict) == ("echo", Verdict.OK)


async def test_a_pooler_that_has_one_session_to_give(server: str, tmp_path: Path) -> None:
    """It accepts connections for ever, and says so when one is used."""
    with pgbouncer(server, tmp_path, "session", default_pool_size=1, query_wait_timeout=1) as url:
        it = (await examine(url))[-1]
    assert (it.check, it.verdict, "query_wait_timeout" in it.found) == ("echo", Verdict.FAILURE, True), it
    assert "default_pool_size in pgbouncer.ini" in it.remedy


async def test_tables_that_are_not_there(server: str) -> None:
    """The command installs them where they were looked for, or looks where they are; a password is never in it."""
    owner = make_conninfo(server, dbname=DATABASE)
    run(owner, f"CREATE SCHEMA {quoted(SCHEMA)}")

    async def about_the_table(url: str, schema: str | None = None) -> tuple[Verdict, str]:
        it = next(it for it in await examine(url, schema=schema) if it.check == "table ff_completion_event")
        return it.verdict, it.remedy

    verdict, remedy = await about_the_table(owner, SCHEMA)
    assert verdict is Verdict.FAILURE
    paste(remedy)
    assert await about_the_table(owner, SCHEMA) == (Verdict.OK, "")
    _, remedy = await about_the_table(make_conninfo(owner, password="hunter2"))
    assert ("hunter2" in remedy, "PGPASSWORD='<password>' ffcompletion doctor " in remedy) == (False, True), remedy
    assert "can be read" in paste(f"{remedy} --json || true")
    # Statistics are those of the tables that were asked for, wherever the search path leads.
    statistics = next(it for it in await examine(owner, schema=SCHEMA) if it.check == "statistics")
    run(owner, statistics.remedy)


async def test_a_time_out_that_was_set_for_a_role_in_one_database(server: str) -> None:
    """What is said of the role alone would change nothing."""
    url = make_conninfo(server, user=ROLE, dbname=DATABASE)
    run(server, f"ALTER ROLE {quoted(ROLE)} IN DATABASE {quoted(DATABASE)} SET idle_session_timeout = '5s'")
    it = next(it for it in await examine(url) if it.check == "time-outs")
    assert it.verdict is Verdict.WARNING
    run(server, it.remedy)
    it = next(it for it in await examine(url) if it.check == "time-outs")
    assert it.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "O\'Brien", database "app", no encryption',
            'host "app" "O\'Brien" 10.0.0.7/32 scram-sha-256',
        ),
        (
            'FATAL:  no pg_hba.conf entry for host "2001:db8::7", user "me", database "app", SSL encryption',
            'host "app" "me" 2001:db8::7/128 scram-sha-256',
        ),
        (
            'FATAL:  no pg_hba.conf entry for host "[local]", user "me", database "app", no encryption',
            'local "app" "me" scram-sha-256',
        ),
    ],
)
def test_the_line_that_the_server_s_file_lacks(said: str, line: str) -> None:
    """As the file has it, through the shell."""
    it = not_connected(psycopg.OperationalError(said), "here", Commands("postgresql://me@here/app", {"user": "me"}))
    echo = it.remedy.removeprefix("on the server: ").partition(" >>")[0]
    assert paste(echo) == line + "\n"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("FATAL:  no more connections allowed (max_client_conn)", "max_client_conn in pgbouncer.ini"),
        ("FATAL:  no such database: app", "knows no such database"),
        ("FATAL:  query_wait_timeout", "default_pool_size"),
        ("FATAL:  the database system is starting up", "wait until it accepts"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ('FATAL:  pg_hba.conf rejects connection for host "::1", user "me", database "app"', "refuses it"),
    ],
)
def test_a_server_or_pooler_that_answers_is_not_said_to_be_away(said: str, remedy: str) -> None:
    """Each of its words has its own remedy."""
    it = not_connected(psycopg.OperationalError(said), "here", Commands("postgresql://me@here/app", {"user": "me"}))
    assert remedy in it.remedy
    assert "firewall" not in it.remedy
