"""A run on Postgres and what it holds: loops in turn, closing at any moment, locks, rotated passwords, odd names."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints, restrictions
from ffcompletion.backends.postgres.supervisor import Supervisor
from ffcompletion.contract.checkpoint import Checkpoint
from tests.worlds import PostgresWorld, done, eventually, first, nothing, some
from tests.worlds.proxy import Proxy
from tests.worlds.servers import PASSWORD, pgbouncer


def held(own: PostgresWorld, count: int = 0) -> Callable[[], Coroutine[Any, Any, bool]]:
    """Whether readers hold so many connections on the server."""

    async def check() -> bool:
        return await own.connections() == count

    return check


def sessions(server: embedded.Server) -> int:
    with psycopg.connect(server.url, autocommit=True) as conn:
        row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion'").fetchone()
    assert row is not None
    return int(row[0])


# ── event loops ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_loops_in_turn(server: embedded.Server) -> None:
    """Three times ``asyncio.run`` on one backend: streams, questions and waits work each time, and nothing is left."""
    backend = PostgresBackend(server.url)

    async def once(number: int) -> None:
        own = PostgresWorld(18, server.url)
        item = done()
        async with ffc.subscribe(backend) as stream:
            await own.announce(item)
            assert (await first(stream)).execution_id == item.execution_id
            assert backend.stats().received == number
        assert await backend.describe_execution(item.execution_id) is not None
        assert (await ffc.wait_for_completion(backend, item.execution_id, timeout=5)).outcome == "success"
        await own.close()

    for number in (1, 2, 3):
        asyncio.run(once(number))
    asyncio.run(backend.aclose())
    end = time.monotonic() + 5
    while sessions(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert sessions(server) == 0


def test_a_loop_that_died_with_a_stream_open(server: embedded.Server) -> None:
    """The next loop takes over, and what the dead one held is released."""
    backend = PostgresBackend(server.url)
    kept: list[Any] = []

    async def opens() -> None:
        kept.append(await backend.subscribe_completions())
        kept.append(await backend.subscribe_completions_from(ffc.StreamCursor.beginning()))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(opens())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()

    async def takes_over() -> None:
        own = PostgresWorld(18, server.url)
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), own)
        await backend.aclose()
        await eventually(held(own))
        await own.close()

    asyncio.run(takes_over())


def test_two_threads_at_the_same_instant(server: embedded.Server) -> None:
    """Each its own loop, first call at once: one is served, the other told at once, and a time-out is kept."""
    backend = PostgresBackend(server.url)
    barrier, outcomes = threading.Barrier(2), []

    def work() -> None:
        async def wait() -> str:
            barrier.wait(5)
            try:
                await ffc.wait_for_completion(backend, done().execution_id, timeout=1, missing="wait")
            except TimeoutError:
                return "timed out"
            except ffc.Unavailable as exc:
                return str(exc)
            return "finished"

        started = time.monotonic()
        outcomes.append((asyncio.run(wait()), time.monotonic() - started))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    asyncio.run(backend.aclose())
    told = sorted(text for text, _ in outcomes)
    assert len(told) == 2
    assert told[1] == "timed out"
    assert "another event loop" in told[0]


# ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_closing_while_subscribing(server: embedded.Server, own: PostgresWorld) -> None:
    """At any step of it: the call is told, and the server holds nothing."""
    dice = random.Random(7)
    for _ in range(12):
        backend = PostgresBackend(server.url)
        opening = [
            asyncio.create_task(backend.subscribe_completions()),
            asyncio.create_task(backend.subscribe_completions_from(ffc.StreamCursor.beginning())),
        ]
        await asyncio.sleep(dice.random() * 0.08)
        await backend.aclose()
        for task in opening:
            try:
                stream = await task
            except ffc.Unavailable:
                continue
            else:
                with pytest.raises(StopAsyncIteration):
                    await stream.__anext__()
    await eventually(held(own))


async def test_subscribing_that_is_cancelled_anywhere(server: embedded.Server, own: PostgresWorld) -> None:
    """At any step, under traffic; then the same backend subscribes again and hears."""
    dice = random.Random(11)
    async with PostgresBackend(server.url) as backend:
        for _ in range(12):
            opening = asyncio.create_task(backend.subscribe_completions_from(ffc.StreamCursor.beginning()))
            await own.announce(done())
            await asyncio.sleep(dice.random() * 0.05)
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                await (await opening).aclose()
        assert backend.stats().streams == 0
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), own)
    await eventually(held(own))


async def test_subscribing_that_is_cancelled_when_its_stream_is_made(
    server: embedded.Server, own: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each of the steps after that: the caller has the stream, or none is open."""
    await own.announce(done())
    real = Supervisor.open_source
    loop = asyncio.get_running_loop()
    opening: asyncio.Task[Any] | None = None

    def later(steps: int) -> None:
        if steps:
            loop.call_soon(later, steps - 1)
        elif opening is not None:
            opening.cancel()

    for steps in range(6):

        def opened(*args: Any, steps: int = steps) -> Any:
            source = real(*args)
            loop.call_soon(later, steps)
            return source

        monkeypatch.setattr(Supervisor, "open_source", opened)
        async with PostgresBackend(server.url) as backend:
            opening = asyncio.create_task(backend.subscribe_completions_from(ffc.StreamCursor.beginning()))
            await asyncio.wait({opening})
            if opening.cancelled():
                assert backend.stats().streams == 0
            else:
                await (await opening).aclose()


async def test_closing_fifty_streams_that_catch_up_on_a_frozen_server(
    server: embedded.Server, own: PostgresWorld
) -> None:
    """Together in about a second, not one after the other."""
    await own.announce(*[done() for _ in range(5)])
    with Proxy(str(server.directory / ".s.PGSQL.5432")) as proxy:
        backend = PostgresBackend(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres")
        streams = [await backend.subscribe_completions_from(ffc.StreamCursor.beginning()) for _ in range(50)]
        proxy.freeze()
        reading = [asyncio.create_task(stream.__anext__()) for stream in streams]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await backend.aclose()
        # One after the other takes fifty.
        assert time.monotonic() - started < 15
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
        proxy.cut()
        proxy.thaw()


# ── locks and poolers ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_locked_table_gathers_no_sessions(server: embedded.Server, own: PostgresWorld) -> None:
    """However long it is locked: one session of the reader waits, and one of the reconciler."""
    async with PostgresBackend(server.url, read_timeout=0.5, poll_interval=0.1) as backend:
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), own)
            locker = await own.connect(autocommit=False)
            await locker.execute("LOCK TABLE ff_completion_event")
            # There is something to look for.
            await own.sql("SELECT nextval('ff_completion_event_event_id_seq')")
            most = 0
            end = time.monotonic() + 3
            while time.monotonic() < end:
                rows = await own.sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion'"
                    " AND wait_event_type = 'Lock'"
                )
                most = max(most, int(rows[0][0]))
                await asyncio.sleep(0.05)
            assert 1 <= most <= 2
            await locker.rollback()
            item = done()
            await own.announce(item)
            assert (await first(stream, 20)).execution_id == item.execution_id


async def test_nothing_listens_on_a_pooled_session(server: embedded.Server, own: PostgresWorld, tmp_path: Path) -> None:
    """Five times subscribe and close through a pooler in transaction mode: no session of it was told to LISTEN."""
    with pgbouncer(server.url, tmp_path) as url:
        for _ in range(5):
            async with PostgresBackend(url, poll_interval=0.05) as backend, ffc.subscribe(backend) as stream:
                assert backend.stats().state is ffc.BackendState.POLLING
                await nothing(stream, done(), own)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
            for _ in range(5):
                assert conn.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
                assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
                assert conn.execute("SHOW plan_cache_mode").fetchone() == ("auto",)


async def test_a_session_pooler_is_listened_through(
    server: embedded.Server, own: PostgresWorld, tmp_path: Path
) -> None:
    """There a session is ours for good: live, not polled."""
    with pgbouncer(server.url, tmp_path, "session") as url:
        async with PostgresBackend(url, poll_interval=5) as backend, ffc.subscribe(backend) as stream:
            assert backend.stats().state is ffc.BackendState.LIVE
            await nothing(stream, done(), own)


@pytest.fixture
async def rls(server: embedded.Server, own: PostgresWorld) -> AsyncGenerator[str]:
    """The URL of a role that row security may be in force for; none is, afterwards."""
    await own.sql(
        "CREATE ROLE rls LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO rls; GRANT ALL ON SCHEMA public TO rls"
    )
    yield server.url.replace("postgres@", "rls@", 1)
    await own.sql("ALTER TABLE ff_completion_event DISABLE ROW LEVEL SECURITY")
    await own.sql("DROP OWNED BY rls; DROP ROLE rls")


async def test_row_level_security_is_told(rls: str, own: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Without a policy for our role nothing can be seen: one warning that names it."""
    await own.sql("ALTER TABLE ff_completion_event ENABLE ROW LEVEL SECURITY")
    async with PostgresBackend(rls) as backend:
        for _ in range(2):
            async with ffc.subscribe(backend):
                pass
    told = [record.getMessage() for record in caplog.records if "row-level security" in record.getMessage()]
    assert told
    assert all("ff_completion_event" in text for text in told)


async def test_row_level_security_under_an_open_stream(
    rls: str, own: PostgresWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told when it begins and when it is over; what nobody may see meanwhile comes then."""
    monkeypatch.setattr(restrictions, "_EVERY_S", 0.0)
    caplog.set_level(logging.INFO, "ffcompletion.postgres")
    async with (
        PostgresBackend(rls, poll_interval=0.1) as backend,
        ffc.subscribe(backend) as stream,
    ):
        await own.sql("ALTER TABLE ff_completion_event ENABLE ROW LEVEL SECURITY")
        await eventually(lambda: "is in force" in caplog.text)
        item = done()
        await own.announce(item)
        await own.sql("ALTER TABLE ff_completion_event DISABLE ROW LEVEL SECURITY")
        assert (await first(stream)).execution_id == item.execution_id
        await eventually(lambda: "no longer in force" in caplog.text)
    assert len([record for record in caplog.records if "row-level security" in record.getMessage()]) == 2


async def test_a_server_that_can_be_connected_to_and_not_read(
    rls: str, own: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Not live in between, nor a line for each attempt; each waits longer. It was so some five times a second."""
    caplog.set_level(logging.INFO, "ffcompletion.postgres")
    await own.sql("ALTER ROLE rls SET row_security = off")
    states: list[ffc.BackendState] = []
    async with (
        PostgresBackend(rls, poll_interval=0.1, observer=lambda e: states.append(e.state)) as backend,
        ffc.subscribe(backend) as stream,
    ):
        await own.sql("ALTER TABLE ff_completion_event ENABLE ROW LEVEL SECURITY")
        await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING)
        item = done()
        await own.announce(item)
        await asyncio.sleep(2)
        await own.sql("ALTER TABLE ff_completion_event DISABLE ROW LEVEL SECURITY")
        assert (await first(stream)).execution_id == item.execution_id
    live, away = ffc.BackendState.LIVE, ffc.BackendState.RECONNECTING
    assert [state for state in states if state in (live, away)] == [live, away, live]
    assert len(caplog.records) <= 4
    assert "affected by row-level security" in caplog.text


async def test_checkpoints_that_policies_may_hide_are_told(
    rls: str, server: embedded.Server, own: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is there and not found would have its consumer begin as a new one."""
    async with PostgresCheckpoints(server.url, table="kept") as store:
        await store.save("a", Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="x", selection=""))
        assert "row-level security" not in caplog.text
    await own.sql("GRANT ALL ON kept TO rls; ALTER TABLE kept ENABLE ROW LEVEL SECURITY")
    async with PostgresCheckpoints(rls, table="kept") as store:
        assert await store.load("a") is None
        assert await store.load("a") is None
    (told,) = [record.getMessage() for record in caplog.records if "row-level security" in record.getMessage()]
    assert "kept" in told
    await own.sql("DROP TABLE kept")


# ── names and credentials ────────────────────────────────────────────────────────────────────────────────────────

NAMES = ["a%b", 'quo"te', "two words", "Capital", "back\\slash", "bücher", "user", "%s", "{x}", "ü" * 31, "x" * 63]


@pytest.mark.parametrize("name", NAMES)
async def test_any_legal_name(server: embedded.Server, own: PostgresWorld, name: str) -> None:
    """As the schema of the engine's tables, of checkpoints and of producers, as a role, and in what we advise."""
    from psycopg import sql

    quoted = sql.Identifier(name).as_string()
    conn = await own.connect()

    async def run(text: str) -> None:
        await conn.execute(text.encode())

    await run(f"DROP SCHEMA IF EXISTS {quoted} CASCADE; CREATE SCHEMA {quoted}")
    await run(f"CREATE TABLE {quoted}.ff_completion_event (LIKE public.ff_completion_event INCLUDING ALL)")
    await run(f"CREATE TABLE {quoted}.ff_exec_core (LIKE public.ff_exec_core INCLUDING ALL)")
    role = name if name != "user" else "table"
    role_quoted = sql.Identifier(role).as_string()
    await run(f"CREATE ROLE {role_quoted} LOGIN")
    conninfo = psycopg.conninfo.make_conninfo(server.url, user=role)
    try:
        # What the errors advise is run as it stands, one right after the other.
        async with PostgresBackend(conninfo, schema=name, poll_interval=0.1) as backend:
            for _ in range(3):
                with pytest.raises(ffc.Unavailable, match="GRANT") as caught:
                    await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
                await run("GRANT" + str(caught.value).split("GRANT", 1)[1])
            stream = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            await run(
                f"INSERT INTO {quoted}.ff_completion_event (partition_key, execution_id, outcome, namespace,"
                " occurred_at_ms) VALUES (7, gen_random_uuid(), 'success', 'a', 0)"
            )
            got = await first(stream)
            assert got.outcome == "success"
            assert await backend.describe_execution(got.execution_id) is not None
            again = await backend.subscribe_completions_from(ffc.StreamCursor.beginning(), ffc.ScannerFilter("a"))
            assert (await first(again)).execution_id == got.execution_id
            for opened in (stream, again):
                await opened.aclose()
        async with PostgresCheckpoints(server.url, schema=name, table=name) as store:
            saved = Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="x", selection="")
            await store.save(name, saved)
            assert await store.load(name) == saved
    finally:
        await run(f"DROP SCHEMA {quoted} CASCADE; DROP OWNED BY {role_quoted}; DROP ROLE {role_quoted}")


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ffc.Validation, match="schema"):
        PostgresBackend("host=h", schema=name)
    with pytest.raises(ffc.Validation, match="table"):
        PostgresCheckpoints("host=h", schema="s", table=name)


async def test_a_password_that_is_rotated_while_a_stream_is_open(
    server: embedded.Server, own: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for at each connect; what goes wrong is told once for each kind, and nothing is lost."""
    caplog.set_level(logging.INFO, "ffcompletion")
    vault, asked = PASSWORD, []

    async def password() -> str:
        asked.append(vault)
        return vault

    conninfo = f"host={server.directory} user=app dbname=postgres"
    async with PostgresBackend(conninfo, password=password) as backend, ffc.subscribe(backend) as stream:
        await nothing(stream, done(), own)
        await own.sql("ALTER ROLE app PASSWORD 'second'")
        await own.drop_connections()
        refused = "password authentication failed"
        await eventually(lambda: any(refused in record.getMessage() for record in caplog.records))
        with pytest.raises(ffc.EngineError, match=refused):
            await backend.describe_execution(done().execution_id)
        meanwhile = [done() for _ in range(3)]
        await own.announce(*meanwhile)
        vault = "second"
        assert [p.execution_id for p in await some(stream, 3, 15)] == [i.execution_id for i in meanwhile]
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
    told = [record.getMessage() for record in caplog.records]
    assert sum(refused in text for text in told) == 1
    assert len(told) <= 5
    assert {PASSWORD, "second"} <= set(asked)
    await own.sql(f"ALTER ROLE app PASSWORD '{PASSWORD}'")


@pytest.mark.parametrize("given", ["text", "plain", "async"])
async def test_a_password_in_each_form(server: embedded.Server, own: PostgresWorld, given: str) -> None:
    """A string, a plain callable (which may block), an async one; it takes precedence over the conninfo's."""

    async def later() -> str:
        return PASSWORD

    def blocks() -> str:
        time.sleep(0.05)
        return PASSWORD

    forms: dict[str, Any] = {"text": PASSWORD, "plain": blocks, "async": later}
    conninfo = f"host={server.directory} user=app dbname=postgres password=wrong"
    async with PostgresBackend(conninfo, password=forms[given]) as backend:
        assert await backend.describe_execution(done().execution_id) is None
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), own)


async def test_a_password_callable_that_fails(server: embedded.Server) -> None:
    """Our error, its own exception as the cause, and its text, which may hold a secret, in neither message nor repr."""

    def vault() -> str:
        raise RuntimeError("token sEcReT refused")

    for wrong in (vault, lambda: None):
        async with PostgresBackend("host=/nonexistent user=app", password=wrong) as backend:  # type: ignore[arg-type]  # the point
            with pytest.raises(ffc.Transport, match="callable given as password") as caught:
                await backend.subscribe_completions()
            assert "sEcReT" not in f"{caught.value} {caught.value!r}"
