"""Ids that somebody wrote into the outbox by hand, beyond what its sequence has given out: they hide nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, reader
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some

LARGEST = (1 << 63) - 1
BEGINNING = ffc.StreamCursor.beginning()


@pytest.fixture
async def server(engine18_url: str) -> AsyncGenerator[PostgresWorld]:
    """The engine's tables: there an id may be anybody's, once in each partition."""
    made = PostgresWorld(18, engine18_url)
    await made.reset()
    yield made
    await made.reset()
    await made.close()


async def plant(world: PostgresWorld, *ids: int) -> None:
    """Rows of somebody's own with these ids."""
    await world.sql(
        "INSERT INTO ff_completion_event (event_id, partition_key, execution_id, outcome, namespace, occurred_at_ms)"
        " OVERRIDING SYSTEM VALUE SELECT n, 255, gen_random_uuid(), 'failed', 'hostile', 1700000000000"
        " FROM unnest(%s::bigint[]) n",
        (list(ids),),
    )


async def issued(world: PostgresWorld) -> int:
    """The last id that was given out."""
    ((last,),) = await world.sql("SELECT last_value FROM ff_completion_event_event_id_seq")
    return int(last)


@pytest.mark.parametrize("beyond", [1, 3, 600, 100_000, LARGEST], ids=str)
@pytest.mark.parametrize("polling", [False, True], ids=["live", "polling"])
async def test_rows_beyond_the_sequence_hide_nothing(
    server: PostgresWorld, beyond: int, polling: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Planted before a stream and while it is open; whoever is live, resumes, or comes later gets all that is genuine."""
    caplog.set_level(logging.WARNING, "ffcompletion")
    old = done()
    await server.announce(old)
    last = await issued(server)
    ahead = LARGEST if beyond == LARGEST else last + beyond
    await plant(server, ahead)
    if polling:
        await server.sql("ALTER TABLE ff_completion_event DISABLE TRIGGER USER")
    try:
        async with server.backend(poll_interval=0.05) as backend:
            assert isinstance(backend, PostgresBackend)
            async with (
                ffc.subscribe(backend) as stream,
                ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered,
                ffc.subscribe(backend, cursor=BEGINNING) as resumed,
            ):
                items = [done(namespace="a") for _ in range(5)]
                await server.announce(*items[:3])
                await plant(server, LARGEST - 1)
                await server.announce(*items[3:])
                wanted = {item.execution_id for item in items}
                for each, more in ((stream, set[str]()), (filtered, set[str]()), (resumed, {old.execution_id})):
                    missing = wanted | more
                    async with asyncio.timeout(10):
                        while missing:
                            missing.discard((await anext(each)).execution_id)
                await eventually(lambda: backend.stats().held == 0)
                await eventually(lambda: stream.cursor is not None and stream.cursor.position >= last + 5)
                now = await issued(server)
                for each in (stream, filtered, resumed):
                    assert each.cursor is not None
                    assert each.cursor.position <= now
                cursor = stream.cursor
            later = done()
            async with ffc.subscribe(backend, cursor=cursor) as again:
                await server.announce(later)
                assert (await first(again)).execution_id == later.execution_id
        assert backend.stats().reconnects == 0
        # What the sequence has passed by now is a row like any other.
        assert sum("given out ids up to" in line for line in caplog.messages) <= 2
        assert [line for line in caplog.messages if "given out ids up to" not in line] == []
    finally:
        await server.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER USER")


async def test_a_row_is_one_like_any_other_once_the_sequence_has_passed_it(server: PostgresWorld) -> None:
    """Neither it nor the one that was given the same id hides the other: live, and read a page at a time."""
    await server.announce(done())
    last = await issued(server)
    await plant(server, last + 2, last + 3)
    items = [done() for _ in range(4)]
    async with server.backend() as backend:
        async with ffc.subscribe(backend) as stream:
            await server.announce(*items)
            async with asyncio.timeout(10):
                live = [await anext(stream) for _ in range(6)]
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(last)) as stored:
            read = await some(stored, 6)
    for found in (live, read):
        assert [item.execution_id for item in found if item.outcome == "success"] == [i.execution_id for i in items]


async def test_a_million_of_them_cost_nothing(server: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a gap before it: nothing of them is kept, no page is read twice for them, and the next row is in time."""
    monkeypatch.setattr(reader, "_PAGE", 50)
    await server.announce(done())
    last = await issued(server)
    await plant(server, *range(last + 1_000, last + 21_000, 2))
    async with server.backend(poll_interval=0.05) as backend, ffc.subscribe(backend) as stream:
        for _ in range(3):
            await nothing(stream, done(), server)
        await server.sql(
            "SELECT pg_notify('ff_completion', n::text) FROM generate_series(%s::bigint, %s) n", (last, last + 5_000)
        )
        await nothing(stream, done(), server)
        assert backend.stats().held == 0


async def test_cursors_beyond_the_sequence_are_of_no_outbox(server: PostgresWorld) -> None:
    """Whatever rows somebody has put there; and one at the end of an outbox that is otherwise empty is good."""
    await server.announce(done())
    last = await issued(server)
    await plant(server, last + 500)
    async with server.backend() as backend:
        assert isinstance(backend, ffc.ResumableCompletionBackend)
        for beyond in (last + 1, last + 500):
            with pytest.raises(ffc.CursorExpired, match="future"):
                await backend.subscribe_completions_from(ffc.StreamCursor.outbox(beyond))
        await server.sql("DELETE FROM ff_completion_event WHERE event_id <= %s", (last,))
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(last)) as stream:
            await nothing(stream, done(), server)


async def test_a_role_that_may_not_see_the_sequence_reads_on(server: PostgresWorld) -> None:
    """Nothing tells then which ids are genuine, and all of them count."""
    await server.sql("DROP ROLE IF EXISTS cannot_see; CREATE ROLE cannot_see LOGIN")
    await server.sql("GRANT SELECT ON ff_completion_event, ff_exec_core TO cannot_see")
    try:
        async with PostgresBackend(server.url.replace("//postgres@", "//cannot_see@")) as backend:
            async with ffc.subscribe(backend) as stream:
                await server.announce(item := done())
                assert (await first(stream)).execution_id == item.execution_id
                await plant(server, await issued(server) + 2)
                assert (await first(stream)).outcome == "failed"
                await server.announce(item := done())
                assert (await first(stream)).execution_id == item.execution_id
    finally:
        await server.sql("DROP OWNED BY cannot_see; DROP ROLE cannot_see")


async def test_rows_that_are_numbered_elsewhere_all_count(server: PostgresWorld) -> None:
    """A subscriber's own sequence does not follow those of its publisher."""
    await server.announce(done())
    last = await issued(server)
    await server.sql(
        "CREATE SUBSCRIPTION elsewhere CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
    )
    try:
        await server.sql(
            "INSERT INTO pg_subscription_rel SELECT s.oid, 'ff_completion_event'::regclass, 'r', NULL FROM pg_subscription s"
        )
        async with server.backend() as backend, ffc.subscribe(backend) as stream:
            conn = await server.connect()
            await plant(server, last + 500)
            assert (await first(stream)).outcome == "failed"
            await insert(conn, item := done())
            assert (await first(stream)).execution_id == item.execution_id
            await conn.close()
    finally:
        await server.sql("DELETE FROM pg_subscription_rel")
        await server.sql("DROP SUBSCRIPTION elsewhere")
