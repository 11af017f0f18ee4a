"""Troubles that people meet with Postgres: poolers, roles, restarts, credentials. On real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.attaching import Definition, attach, detach
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints
from ffcompletion.backends.postgres.connection import Target, deadline
from ffcompletion.backends.postgres.holders import Holder
from ffcompletion.backends.postgres.status import status
from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.diagnosis import Verdict
from ffcompletion.doctor import examine
from ffcompletion.producers import install, prune, uninstall
from tests.worlds import PostgresWorld, done, eventually, first, nothing, some
from tests.worlds.servers import PASSWORD, pgbouncer


def as_app(server: embedded.Server, **changes: str) -> str:
    """A conninfo for the role that needs a password."""
    parts = {"host": str(server.directory), "user": "app", "password": PASSWORD, "dbname": "postgres"} | changes
    return " ".join(f"{key}='{value}'" for key, value in parts.items())


def _released(own: PostgresWorld) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def check() -> bool:
        return await own.connections() == 0

    return check


async def failure(work: Any) -> ffc.EngineError:
    with pytest.raises(ffc.EngineError) as caught:
        await work
    return caught.value


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"password": "sEcReT"}, ffc.Unavailable, "password authentication failed"),
        ({"dbname": "nowhere"}, ffc.Unavailable, 'database "nowhere" does not exist'),
        ({"user": "nobody_here", "dbname": "nowhere"}, ffc.EngineError, '"nobody_here" does not exist'),
        ({"host": "127.0.0.1", "port": "CLOSED", "password": "sEcReT"}, ffc.Transport, "refused"),
        ({"host": "nowhere.invalid", "password": "sEcReT"}, ffc.Transport, "nowhere.invalid"),
        ({"host": "/nonexistent"}, ffc.Transport, "No such file"),
    ],
    ids=["password", "database", "role", "closed port", "unknown host", "no socket"],
)
async def test_a_question_tells_the_true_cause_at_once(
    server: embedded.Server, changes: dict[str, str], kind: type[ffc.EngineError], text: str
) -> None:
    """The same error as subscribing, without waiting for a pool; and no secret in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    conninfo = as_app(server, **{key: port if value == "CLOSED" else value for key, value in changes.items()})
    async with PostgresBackend(conninfo) as backend, PostgresCheckpoints(conninfo) as store:
        # A pool that gathers connections would have been waited for for thirty.
        async with asyncio.timeout(20):
            asked = await failure(backend.describe_execution(done().execution_id))
            subscribed = await failure(backend.subscribe_completions())
            loaded = await failure(store.load("x"))
    for error in (asked, subscribed, loaded):
        assert isinstance(error, kind)
        assert type(error) is type(asked)
        assert text in str(error)
        assert "sEcReT" not in f"{error} {error!r} {error.__cause__!r}"
        assert isinstance(error.__cause__, psycopg.Error)


async def test_four_questions_after_a_restart(server: embedded.Server, own: PostgresWorld) -> None:
    """Idle connections died with the server: no question fails for that, nor a checkpoint."""
    item = done()
    await own.announce(item)
    saved = Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="x", selection="")
    async with PostgresBackend(server.url) as backend, PostgresCheckpoints(server.url) as store:
        await store.save("one", saved)
        # Several connections of the pool are in use, then idle.
        await asyncio.gather(*(backend.describe_execution(item.execution_id) for _ in range(4)))
        server.kill()
        await asyncio.to_thread(server.start)
        await own.forget()
        for _ in range(4):
            assert (await backend.describe_execution(item.execution_id)) is not None
        assert await store.load("one") == saved
        # Half-open: nothing tells before it is used.
        await store.save("one", saved)
        await own.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ffcompletion'")
        assert await store.load("one") == saved
        assert await backend.flow_members(str(item.flow_id))
    await own.sql("DROP TABLE ffcompletion_checkpoint")


async def test_setting_up_behind_a_pooler_leaves_nothing_in_its_sessions(
    server: embedded.Server, own: PostgresWorld, tmp_path: Path
) -> None:
    """Installing, pruning and attaching: whoever is given the server session next finds it as it was."""
    settings = (
        "SELECT current_setting('search_path'), current_setting('lock_timeout'), current_setting('bytea_output'),"
        " current_setting('default_transaction_isolation')"
    )
    jobs = Definition(name="jobs", table="pooled.jobs", key="id", state="status", outcomes={"done": "success"})
    with pgbouncer(server.url, tmp_path, default_pool_size=1) as url:
        before = await asyncio.to_thread(_asked, url, settings)
        await own.sql("CREATE SCHEMA pooled")
        await own.sql("CREATE TABLE pooled.jobs AS SELECT 1 AS id, 'done' AS status")
        await own.sql("ALTER TABLE pooled.jobs ADD PRIMARY KEY (id)")
        try:
            await install(url, schema="pooled")
            assert await asyncio.to_thread(_asked, url, settings) == before
            found = await asyncio.to_thread(attach, url, jobs, schema="pooled")
            assert found.jobs == 1
            assert await asyncio.to_thread(_asked, url, settings) == before
            assert await prune(url, older_than=timedelta(days=1), schema="pooled") == 0
            assert await asyncio.to_thread(_asked, url, settings) == before
            await asyncio.to_thread(detach, url, "jobs", schema="pooled")
            await uninstall(url, schema="pooled")
            assert await asyncio.to_thread(_asked, url, settings) == before
        finally:
            await own.sql("DROP SCHEMA pooled CASCADE")


def _asked(url: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        return conn.execute(query).fetchall()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_two_stores_behind_a_pooler_keep_apart(
    server: embedded.Server, own: PostgresWorld, tmp_path: Path, mode: str
) -> None:
    """Saving in turn through the same server sessions: each position lands in its own table."""
    with pgbouncer(server.url, tmp_path, mode, default_pool_size=3 if mode == "session" else 1) as url:
        for schema in ("t1", "t2"):
            await own.sql(f"CREATE SCHEMA {schema}")
        async with PostgresCheckpoints(url, schema="t1") as one, PostgresCheckpoints(url, schema="t2") as two:
            for number in range(1, 61):
                for offset, store in ((0, one), (1_000, two)):
                    at = Checkpoint(cursor=ffc.StreamCursor.outbox(number + offset), backend="x", selection="")
                    await store.save("same", at)
                    assert await store.load("same") == at
        assert (await own.sql("SELECT count(*) FROM t1.ffcompletion_checkpoint")) == [(1,)]
        async with PostgresBackend(url) as backend:
            # Every question often enough that a driver would prepare it by itself.
            item = done()
            await own.announce(item)
            for _ in range(12):
                assert await backend.describe_execution(item.execution_id) is not None
                assert await backend.flow_members(str(item.flow_id))
    for schema in ("t1", "t2"):
        await own.sql(f"DROP SCHEMA {schema} CASCADE")


async def test_many_stores_that_come_first(own: PostgresWorld) -> None:
    """All load for the first time at the same instant: one makes the table, the others find it made."""
    for number in range(5):
        stores = [PostgresCheckpoints(own.url, table=f"kept{number}") for _ in range(8)]
        assert await asyncio.gather(*(store.load("x") for store in stores)) == [None] * 8
        for store in stores:
            await store.aclose()
        await own.sql(f"DROP TABLE kept{number}")


async def test_a_role_with_another_encoding(server: embedded.Server, own: PostgresWorld) -> None:
    """Text stays text, whatever encoding the role would have its sessions speak."""
    await own.sql("CREATE ROLE ascii LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ascii")
    await own.sql("ALTER ROLE ascii SET client_encoding = 'SQL_ASCII'")
    url = server.url.replace("postgres@", "ascii@", 1)
    try:
        async with PostgresBackend(url + "&client_encoding=LATIN1") as backend:
            async with ffc.subscribe(backend, ffc.ScannerFilter("büro")) as stream:
                item = done(namespace="büro", tags={"ort": "Zürich"})
                await own.announce(done(namespace="other"), item)
                assert (await first(stream)).execution_id == item.execution_id
            found = await backend.describe_execution(item.execution_id)
            assert found is not None
            assert (found.namespace, found.tags) == ("büro", {"ort": "Zürich"})
            assert (await ffc.wait_for_completion(backend, item.execution_id, timeout=5)).outcome == "success"
    finally:
        await own.sql("DROP OWNED BY ascii; DROP ROLE ascii")


async def test_a_pool_of_the_caller_s_that_speaks_something_else(own: PostgresWorld) -> None:
    """Refused, with the remedy; never bytes for text. And what it prepares by itself is not ours."""
    from psycopg_pool import AsyncConnectionPool

    kwargs = {"autocommit": True, "client_encoding": "latin1"}
    async with AsyncConnectionPool(own.url, min_size=1, kwargs=kwargs, open=False) as pool:
        async with PostgresBackend(own.url, pool=pool) as backend:
            for work in (backend.subscribe_completions(), backend.describe_execution(done().execution_id)):
                error = await failure(work)
                assert isinstance(error, ffc.Unavailable)
                assert "LATIN1" in str(error)
                assert "'client_encoding': 'utf8'" in str(error)
    async with AsyncConnectionPool(own.url, min_size=1, max_size=2, kwargs={"autocommit": True}, open=False) as pool:
        async with PostgresBackend(own.url, pool=pool) as backend:
            for _ in range(10):
                assert await backend.describe_execution(done().execution_id) is None
            async with pool.connection() as conn:
                assert conn.prepare_threshold == 5
                rows = await (await conn.execute("SELECT count(*) FROM pg_prepared_statements")).fetchone()
                assert rows == (0,)


async def test_a_role_that_is_read_only(server: embedded.Server, own: PostgresWorld) -> None:
    """Nothing that a stream or a question does writes; with two hosts the primary is still found."""
    await own.sql("CREATE ROLE reads LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads")
    await own.sql("ALTER ROLE reads SET default_transaction_read_only = on")
    conninfo = f"host={server.directory},{server.directory} port=5432,5432 user=reads dbname=postgres"
    try:
        async with PostgresBackend(conninfo) as backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
            assert backend.stats().state is ffc.BackendState.LIVE
            item = done(namespace="a")
            await own.announce(item)
            assert (await first(stream)).execution_id == item.execution_id
            assert await backend.describe_execution(item.execution_id) is not None
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stored:
                assert len(await some(stored, 1)) == 1
    finally:
        await own.sql("DROP OWNED BY reads; DROP ROLE reads")


@pytest.mark.parametrize(
    "setting",
    ["DateStyle = 'German'", "extra_float_digits = -15", "standard_conforming_strings = off", "client_encoding = LATIN1",
     "client_encoding = SQL_ASCII"],
)  # fmt: skip
async def test_a_role_that_writes_and_reads_texts_in_another_way(
    server: embedded.Server, own: PostgresWorld, setting: str
) -> None:
    """Times, ages and jobs are the same: checkpoints listed, the doctor's clocks, who holds the watermark, an attachment."""
    await own.sql("CREATE ROLE odd LOGIN SUPERUSER; CREATE SCHEMA odd")
    await own.sql(f"ALTER ROLE odd SET {setting}")
    url = psycopg.conninfo.make_conninfo(server.url, user="odd")
    definition = Definition(name="back\\slash", table="odd.jobs", key="id", state="state", outcomes={"done": "success"})
    try:
        async with PostgresCheckpoints(url, schema="odd") as store:
            await store.save("a", Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="x", selection=""))
            (kept,) = await store.stored()
        assert abs(datetime.now(UTC) - kept.saved_at) < timedelta(seconds=60)
        async with AsyncExitStack() as stack:
            holder = await stack.enter_async_context(await psycopg.AsyncConnection.connect(server.url))
            await holder.execute("INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                                 " VALUES (7, gen_random_uuid(), 'success', 0)")  # fmt: skip
            found = {finding.check: finding for finding in await examine(url, schema="public")}
            assert found["clocks"].verdict is Verdict.OK, found["clocks"]
            holders = (await status(url, "public"))["held_by"]
            assert isinstance(holders, list)
            (held,) = holders
            assert isinstance(held, Holder)
            assert held.age_s is not None
            assert 0 <= held.age_s < 60
            assert held.age_s != round(held.age_s, 1), "to the microsecond"
        await own.sql("CREATE TABLE odd.jobs (id int PRIMARY KEY, state text NOT NULL)")
        await asyncio.to_thread(attach, url, definition, schema="odd")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as worker:
            await worker.execute("INSERT INTO odd.jobs VALUES (1, 'pending')")
            await worker.execute("UPDATE odd.jobs SET state = 'done'")
            await worker.execute("SELECT odd.ff_emit_completion('{fp:7}:' || gen_random_uuid(), 'success')")
        assert await own.sql("SELECT count(*) FROM odd.ff_completion_event") == [(2,)]
        await asyncio.to_thread(detach, url, definition.name, schema="odd")
    finally:
        await own.sql("DROP SCHEMA odd CASCADE; DROP OWNED BY odd; DROP ROLE odd")


async def test_a_deadline_needs_no_descriptor(server: embedded.Server, own: PostgresWorld) -> None:
    """The process has none left: what hangs still fails in time."""
    conn = await Target(server.url, 5).connect()
    hogs: list[int] = []
    try:
        query = conn.execute("SELECT pg_sleep(20)")
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(5):
                with deadline(conn, 0.3):
                    try:
                        while True:
                            hogs.append(os.dup(0))
                    except OSError:
                        pass
                    await query
    finally:
        for hog in hogs:
            os.close(hog)
        conn.pgconn.finish()
        await own.drop_connections()


async def test_questions_do_not_care_about_streams(own: PostgresWorld) -> None:
    """Asked all the while streams are opened and closed: none fails, and afterwards nothing stays for long."""
    item = done()
    await own.announce(item)
    async with own.backend() as backend:
        asking = True

        async def ask() -> int:
            asked = 0
            while asking:
                assert await backend.describe_execution(item.execution_id) is not None
                asked += 1
            return asked

        askers = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(10):
            async with ffc.subscribe(backend) as stream:
                await nothing(stream, done(), own)
        asking = False
        assert min(await asyncio.gather(*askers)) > 0
    await eventually(_released(own))


async def test_one_server_session_serves_a_series_of_questions(
    own: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """One after another: the same connection. Closing the backend releases it at once, without a word in the log."""
    caplog.set_level(logging.INFO)
    async with own.backend() as backend:
        pids = set()
        for _ in range(5):
            await backend.describe_execution(done().execution_id)
            rows = await own.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'ffcompletion'")
            pids |= set(rows)
        assert len(pids) == 1
    await eventually(_released(own))
    assert not caplog.records
