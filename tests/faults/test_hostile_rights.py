"""The threat model's lines, with the roles that they make: what each may do, and what it may not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from glide import RequestError
from psycopg import AsyncConnection

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.connection import make_client
from ffcompletion.backends.valkey.options import Options
from ffcompletion.producers import text as producer
from tests import ROOT
from tests.worlds import FLOW, PostgresWorld, ValkeyWorld, done, first, nothing, some

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
SQL = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ACL = {line.split()[2]: line.split() for line in PAGE.splitlines() if line.startswith("ACL SETUSER")}
ID = "{fp:7}:550e8400-e29b-41d4-a716-4466554400%02x"


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _database(url: str, lines: str) -> AsyncGenerator[tuple[str, Any]]:
    """A database of its own with our producer and the page's roles, which may log in here; its URL and a connection."""
    name = "threats"
    made = re.sub(r"^DROP .*\n", "", lines, flags=re.MULTILINE)
    roles = re.findall(r"CREATE ROLE (\w+)", made)
    async with await AsyncConnection.connect(url, autocommit=True) as admin:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        await admin.execute(f"CREATE DATABASE {name}".encode())
        database = url.replace("/postgres?", f"/{name}?")
        try:
            async with await AsyncConnection.connect(database, autocommit=True) as conn:
                await conn.execute(producer("postgres").encode())
                await conn.execute(made.replace("NOLOGIN", "LOGIN").encode())
                yield database, conn
                await conn.execute(f"DROP OWNED BY {', '.join(roles)}".encode())
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            for role in roles:
                await admin.execute(f"DROP ROLE {role}".encode())


def _as(url: str, role: str) -> str:
    return url.replace("//postgres@", f"//{role}@")


async def _emit(conn: AsyncConnection[Any], number: int, namespace: str, result: bytes | None = None) -> str:
    await conn.execute(
        "SELECT public.ff_emit_completion(%s, 'success', namespace => %s, result => %s)",
        (ID % number, namespace, result),
    )
    return ID % number


async def test_readers_read_and_producers_announce(postgres18_url: str) -> None:
    """Each may do its own, and nothing of the other's."""
    async with _database(postgres18_url, SQL[0]) as (url, _):
        async with (
            ffc.connect(_as(url, "ff_reader")) as backend,
            await AsyncConnection.connect(_as(url, "ff_producer"), autocommit=True) as writer,
            await AsyncConnection.connect(_as(url, "ff_reader"), autocommit=True) as reader,
        ):
            assert isinstance(backend, ffc.ResumableCompletionBackend)
            async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
                await _emit(writer, 1, "b")
                id_ = await _emit(writer, 2, "a")
                assert (await first(stream)).execution_id == id_
            assert (await ffc.wait_for_completion(backend, id_, timeout=5)).outcome == "success"
            with pytest.raises(ffc.Validation, match="future"):
                await backend.subscribe_completions_from(ffc.StreamCursor.outbox(10**6))
            for statement in (
                "SELECT ff_emit_completion('" + ID % 3 + "', 'success')",
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                " VALUES (1, '550e8400-e29b-41d4-a716-446655440000', 'success', 1)",
                "UPDATE ff_exec_core SET raw_fields = '{}'",
                "DELETE FROM ff_completion_event",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await reader.execute(statement.encode())
            for statement in (
                "CREATE OR REPLACE FUNCTION public.ff_announce_completions() RETURNS trigger LANGUAGE plpgsql"
                " AS 'BEGIN RETURN NULL; END'",
                "ALTER TABLE ff_completion_event DISABLE TRIGGER ALL",
                "CREATE TABLE public.mine (i int)",
                "DELETE FROM ff_completion_event",
                # An id beyond all others: what is announced after it would lie where nobody looks any more.
                "INSERT INTO ff_completion_event (event_id, partition_key, execution_id, outcome, occurred_at_ms)"
                " VALUES (4611686018427387904, 7, '550e8400-e29b-41d4-a716-446655440000', 'success', 1)",
                "SELECT setval('ff_completion_event_event_id_seq', 4611686018427387904)",
                # For as long as it likes: every reader would wait.
                "DO $$ BEGIN LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE; END $$",
                "DO $$ BEGIN LOCK TABLE ff_completion_event IN SHARE ROW EXCLUSIVE MODE; END $$",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await writer.execute(statement.encode())


async def test_a_callers_own_tables_are_not_written_to(postgres18_url: str) -> None:
    """Whatever comes first in the caller's path, also its temporary schema of the same names."""
    async with _database(postgres18_url, SQL[0]) as (url, conn):
        await conn.execute("CREATE SCHEMA own AUTHORIZATION ff_producer")
        async with await AsyncConnection.connect(_as(url, "ff_producer"), autocommit=True) as writer:
            await writer.execute("SET search_path = own, public")
            await writer.execute("CREATE TABLE own.ff_exec_core (LIKE public.ff_exec_core)")
            await writer.execute("CREATE TABLE own.ff_completion_event (LIKE public.ff_completion_event)")
            await _emit(writer, 1, "a")
            found = await (await conn.execute("SELECT count(*) FROM public.ff_completion_event")).fetchone()
            assert found == (1,)


async def test_a_tenant_that_writes_for_itself_writes_for_nobody_else(postgres18_url: str) -> None:
    """Its own arrive; another's namespace, and another's execution under its own, are refused, and nothing is seen."""
    async with _database(postgres18_url, SQL[1]) as (url, admin):
        async with (
            ffc.connect(_as(url, "ff_reader")) as backend,
            await AsyncConnection.connect(_as(url, "tenant_a"), autocommit=True) as tenant,
            ffc.subscribe(backend, ffc.ScannerFilter("tenant-b"), results=True) as others,
            ffc.subscribe(backend, ffc.ScannerFilter("tenant-a"), results=True) as own,
        ):
            victim = await _emit(admin, 1, "tenant-b", b"secret")
            assert (await first(others)).payload_bytes == b"secret"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await _emit(tenant, 2, "tenant-b")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await _emit(tenant, 1, "tenant-a")
            # By hand, for an execution of somebody else's or of nobody's: a wait for it would be answered by this.
            for number in (1, 9):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await tenant.execute(
                        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
                        " VALUES (7, %s, 'failed', 'tenant-a', 1)",
                        ((ID % number).partition("}:")[2],),
                    )
            rows = await (await tenant.execute("SELECT count(*) FROM ff_exec_core")).fetchone()
            assert rows == (0,)
            own_row = "INSERT INTO ff_completion_event (event_id, partition_key, execution_id, outcome, namespace, occurred_at_ms)"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await tenant.execute(
                    f"{own_row} VALUES (4611686018427387904, 7, %s, 'failed', 'tenant-a', 1)".encode(),
                    ((ID % 9).partition("}:")[2],),
                )
            for table in ("ff_exec_core", "ff_completion_event"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await tenant.execute(f"DO $$ BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; END $$".encode())
            id_ = await _emit(tenant, 3, "tenant-a", b"mine")
            came = await first(own)
            assert (came.execution_id, came.payload_bytes) == (id_, b"mine")
            found = await backend.describe_execution(victim, result=True)
            assert found is not None
            assert (found.namespace, found.result) == ("tenant-b", b"secret")


NOTIFICATIONS = [
    "", "0", "-1", "1", "x", "9" * 5000, str(2**63), str(2**63 - 1), "1e9", " 7 ", "\u0667", "1;2", "{}", "NaN",
]  # fmt: skip


async def test_a_bare_notify_makes_a_reader_believe_nothing(postgres: PostgresWorld) -> None:
    """By a role that may do nothing else: no row, no repetition, no reconnect, no older row, and the next is in time."""
    old = [done() for _ in range(20)]
    await postgres.announce(*old)
    ids = [row[0] for row in await postgres.sql("SELECT event_id FROM ff_completion_event ORDER BY event_id")]
    await postgres.sql("DROP ROLE IF EXISTS nobody_at_all")
    await postgres.sql("CREATE ROLE nobody_at_all LOGIN")
    try:
        async with (
            postgres.backend() as backend,
            ffc.subscribe(backend) as stream,
            await AsyncConnection.connect(
                postgres.url.replace("//postgres@", "//nobody_at_all@"), autocommit=True
            ) as nobody,
        ):
            for payload in (*NOTIFICATIONS, *map(str, ids), str(ids[-1] + 1000)):
                await nobody.execute("SELECT pg_notify('ff_completion', %s)", (payload,))
            await nothing(stream, done(), postgres)
            for number in range(ids[-1] + 10**6, ids[-1] + 10**6 + 2_000):
                await nobody.execute("SELECT pg_notify('ff_completion', %s)", (str(number),))
            await nothing(stream, done(), postgres)
            stats = backend.stats()
            assert (stats.state, stats.reconnects) == (ffc.BackendState.LIVE, 0)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await nobody.execute("SELECT * FROM ff_completion_event")
    finally:
        await postgres.sql("DROP ROLE nobody_at_all")


# ── Valkey ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _user(valkey: ValkeyWorld, name: str) -> AsyncGenerator[Any]:
    """The page's user of this name, and a client of its own."""
    await valkey.command(*ACL[name], "resetpass", ">password")
    client = await make_client(Options.from_url(valkey.url, username=name, password="password"))
    try:
        yield client
    finally:
        await client.close()
        await valkey.command("ACL", "DELUSER", name)


async def test_a_reader_on_valkey_reads_and_proves_its_connection(valkey: ValkeyWorld) -> None:
    """All that a reader does, through a dropped connection too; and it may not announce."""
    async with _user(valkey, "reader") as client:
        options: dict[str, Any] = {"username": "reader", "password": "password", "reconcile_interval": 0.3}
        async with ValkeyBackend(valkey.url, **options) as backend:
            async with ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as stream:
                item, solo = done(namespace="a", result=b"r"), done(namespace="a", flow_id=None)
                await valkey.finish(item)
                assert (await first(stream)).payload_bytes == b"r"
                await valkey.drop_connections()
                await valkey.finish(solo)
                assert (await first(stream)).execution_id == solo.execution_id
                await valkey.joins(FLOW, item)
                await valkey.finish(item)
                assert item.execution_id in await ffc.wait_for_flow(backend, FLOW, timeout=10)
                await asyncio.sleep(0.7)
                assert backend.stats().state is ffc.BackendState.LIVE
        message = json.dumps({"execution_id": item.execution_id, "flow_id": FLOW, "outcome": "failed"})
        for command in (
            ["PUBLISH", "ff:dag:completions", message],
            ["SET", "ff:exec:{fp:1}:x:result", "x"],
            ["GET", "secrets"],
            ["FUNCTION", "LOAD", "REPLACE", producer("valkey")],
            ["ACL", "LIST"],
        ):
            with pytest.raises(RequestError, match=r"(?i)permission"):
                await client.custom_command(command)
        assert await client.custom_command(["PUBLISH", "ffcompletion:echo:x", "1"]) == 0


async def test_a_producer_on_valkey_announces_and_nothing_more(valkey: ValkeyWorld) -> None:
    await valkey.command("FUNCTION", "LOAD", "REPLACE", producer("valkey"))
    async with _user(valkey, "producer") as client, valkey.backend() as backend:
        async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
            base = f"ff:exec:{{fp:7}}:{ID % 1}"
            keys = [f"{base}:core", f"{base}:tags", f"{base}:result"]
            keys += ["ff:idx:{fp:7}:lane:default:terminal", "ff:idx:{fp:7}:all_executions"]
            arguments = [ID % 1, FLOW, "a", "default", "success", "r", "k", "v"]
            answer = await client.custom_command(["FCALL", "ffcompletion_complete", "5", *keys, *arguments])
            assert answer == 1
            assert (await first(stream)).execution_id == ID % 1
        for command in (
            ["FUNCTION", "LOAD", "REPLACE", producer("valkey")],
            ["FUNCTION", "FLUSH"],
            ["SET", "secrets", "x"],
            ["PUBLISH", "another", "x"],
            ["FLUSHALL"],
            ["CONFIG", "GET", "*"],
        ):
            with pytest.raises(RequestError, match=r"(?i)permission"):
                await client.custom_command(command)


async def test_a_bare_publish_reaches_no_filtered_stream_but_the_records_own(valkey: ValkeyWorld) -> None:
    """Whatever is announced, a filtered stream goes by the record; and what makes no sense is counted and skipped."""
    mine, victims = done(namespace="a"), done(namespace="b")
    await valkey.write(victims)
    async with valkey.backend() as backend:
        async with (
            ffc.subscribe(backend, ffc.ScannerFilter("a")) as own,
            ffc.subscribe(backend, ffc.ScannerFilter("b")) as others,
        ):
            await valkey.publish(victims)
            assert (await first(others)).execution_id == victims.execution_id
            for raw in (b"", b"{}", b"[" * 5000, b"\xff" * 100, b'{"execution_id":7}', b"x" * 60_000):
                await valkey.command("PUBLISH", "ff:dag:completions", raw)
            await nothing(own, mine, valkey)
            assert backend.stats().malformed == 6
            assert len(await some(others, 0)) == 0
