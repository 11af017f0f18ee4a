"""Ids that somebody wrote into the outbox by hand, beyond what its sequence has given out: they hide nothing."""

from __future__ import annotations

import asyncio
import logging

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, reader
from ffcompletion.backends.postgres.session import Session
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some

LARGEST = (1 << 63) - 1
BEGINNING = ffc.StreamCursor.beginning()


async def plant(world: PostgresWorld, *ids: int, partition: int = 255) -> None:
    """Rows of somebody's own with these ids."""
    await world.sql(
        "INSERT INTO ff_completion_event (event_id, partition_key, execution_id, outcome, namespace, occurred_at_ms)"
        " OVERRIDING SYSTEM VALUE SELECT n, %s, gen_random_uuid(), 'failed', 'hostile', 1700000000000"
        " FROM unnest(%s::bigint[]) n",
        (partition, list(ids)),
    )


async def issued(world: PostgresWorld) -> int:
    """The last id that was given out."""
    ((last,),) = await world.sql("SELECT last_value FROM ff_completion_event_event_id_seq")
    return int(last)


@pytest.mark.parametrize("beyond", [1, 3, 600, 100_000, LARGEST], ids=str)
@pytest.mark.parametrize("polling", [False, True], ids=["live", "polling"])
async def test_rows_beyond_the_sequence_hide_nothing(
    engine: PostgresWorld, beyond: int, polling: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Planted before a stream and while it is open; whoever is live, resumes, or comes later gets all that is genuine."""
    caplog.set_level(logging.WARNING, "ffcompletion")
    old = done()
    await engine.announce(old)
    last = await issued(engine)
    ahead = LARGEST if beyond == LARGEST else last + beyond
    await plant(engine, ahead)
    if polling:
        await engine.sql("ALTER TABLE ff_completion_event DISABLE TRIGGER USER")
    try:
        async with engine.backend(poll_interval=0.05) as backend:
            assert isinstance(backend, PostgresBackend)
            async with (
                ffc.subscribe(backend) as stream,
                ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered,
                ffc.subscribe(backend, cursor=BEGINNING) as resumed,
            ):
                items = [done(namespace="a") for _ in range(5)]
                await engine.announce(*items[:3])
                await plant(engine, LARGEST - 1)
                await engine.announce(*items[3:])
                wanted = {item.execution_id for item in items}
                for each, more in ((stream, set[str]()), (filtered, set[str]()), (resumed, {old.execution_id})):
                    missing = wanted | more
                    async with asyncio.timeout(10):
                        while missing:
                            missing.discard((await anext(each)).execution_id)
                await eventually(lambda: backend.stats().held == 0)
                await eventually(lambda: stream.cursor is not None and stream.cursor.position >= last + 5)
                now = await issued(engine)
                for each in (stream, filtered, resumed):
                    assert each.cursor is not None
                    assert each.cursor.position <= now
                cursor = stream.cursor
            later = done()
            async with ffc.subscribe(backend, cursor=cursor) as again:
                await engine.announce(later)
                assert (await first(again)).execution_id == later.execution_id
        assert backend.stats().reconnects == 0
        # What the sequence has passed by now is a row like any other.
        assert sum("given out ids up to" in line for line in caplog.messages) <= 2
        assert [line for line in caplog.messages if "given out ids up to" not in line] == []
    finally:
        await engine.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER USER")


async def test_a_row_is_one_like_any_other_once_the_sequence_has_passed_it(engine: PostgresWorld) -> None:
    """Neither it nor the one that was given the same id hides the other: live, and read a page at a time."""
    await engine.announce(done())
    last = await issued(engine)
    await plant(engine, last + 2, last + 3)
    items = [done() for _ in range(4)]
    async with engine.backend() as backend:
        async with ffc.subscribe(backend) as stream:
            await engine.announce(*items)
            async with asyncio.timeout(10):
                live = [await anext(stream) for _ in range(6)]
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(last)) as stored:
            read = await some(stored, 6)
    for found in (live, read):
        assert [item.execution_id for item in found if item.outcome == "success"] == [i.execution_id for i in items]


@pytest.mark.parametrize("followed", [False, True], ids=["last", "followed"])
@pytest.mark.parametrize("planted", [1, 2])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_an_id_that_is_just_being_given_out_is_still_awaited(
    engine: PostgresWorld, end: str, planted: int, followed: bool
) -> None:
    """Its row is not visible yet, and another that bears the id is: both come, with the commit or without."""
    await engine.announce(done())
    last = await issued(engine)
    for number in range(planted):
        await plant(engine, last + 1, partition=255 - number)
    async with engine.backend(poll_interval=0.05) as backend:
        async with ffc.subscribe(backend) as stream, ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered:
            await nothing_is_read_of(engine, backend)
            conn = await engine.connect(autocommit=False)
            await insert(conn, item := done(namespace="a"))
            await engine.sql("SELECT pg_notify('ff_completion', %s)", (str(last + 1),))
            if followed:
                await engine.announce(behind := done(namespace="a"))
                for each in (stream, filtered):
                    assert (await first(each)).execution_id == behind.execution_id
            else:
                await nothing_is_read_of(engine, backend)
            await (conn.commit() if end == "commit" else conn.rollback())
            came = await some(stream, planted + (end == "commit"))
            assert sorted(p.outcome for p in came) == ["failed"] * planted + ["success"] * (end == "commit")
            await engine.announce(after := done(namespace="a"))
            its = ([item] if end == "commit" else []) + [after]
            for each, wanted in ((stream, [after]), (filtered, its)):
                assert [p.execution_id for p in await some(each, len(wanted))] == [i.execution_id for i in wanted]
            for each in (stream, filtered):
                await eventually(
                    lambda each=each: each.cursor is not None and each.cursor.position > last + 1 + followed
                )
            assert backend.stats().held == 0


async def test_an_id_that_is_being_given_out_is_awaited_beside_one_that_does_not_end(engine: PostgresWorld) -> None:
    """What is looked at before everybody has ended is not decided: the row by hand does not take the other's place."""
    await engine.announce(done())
    last = await issued(engine)
    await plant(engine, last + 1)
    endless, writer = [await engine.connect(autocommit=False) for _ in range(2)]
    await endless.execute("LOCK TABLE ff_completion_event IN ROW EXCLUSIVE MODE")
    async with engine.backend() as backend, ffc.subscribe(backend) as stream:
        await insert(writer, item := done())
        await engine.announce(behind := done())
        assert (await first(stream)).execution_id == behind.execution_id
        # By then what is missing is looked at for the first time.
        await asyncio.sleep(1)
        await writer.commit()
        came = await some(stream, 2, 10)
        assert item.execution_id in [each.execution_id for each in came]
        await endless.rollback()
    await writer.close()
    await endless.close()


async def nothing_is_read_of(world: PostgresWorld, backend: ffc.Backend) -> None:
    """The reader has looked once more at all there is."""
    assert isinstance(backend, PostgresBackend)
    run = backend._run
    assert run is not None
    looks, real = 0, run.reader._look

    async def look(session: Session) -> bool:
        nonlocal looks
        more = await real(session)
        looks += 1
        return more

    run.reader._look = look  # type: ignore[method-assign]  # put in between
    try:
        # Announced, and not there: too many to be picked one by one.
        await world.sql(
            "SELECT pg_notify('ff_completion', n::text) FROM generate_series(%s, %s) n", (LARGEST - 40, LARGEST - 20)
        )
        await eventually(lambda: looks > 0)
    finally:
        run.reader._look = real  # type: ignore[method-assign]  # as it was


async def test_a_million_of_them_cost_nothing(engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a gap before it: nothing of them is kept, no page is read twice for them, and the next row is in time."""
    monkeypatch.setattr(reader, "_PAGE", 50)
    await engine.announce(done())
    last = await issued(engine)
    await plant(engine, *range(last + 1_000, last + 21_000, 2))
    async with engine.backend(poll_interval=0.05) as backend, ffc.subscribe(backend) as stream:
        for _ in range(3):
            await nothing(stream, done(), engine)
        await engine.sql(
            "SELECT pg_notify('ff_completion', n::text) FROM generate_series(%s::bigint, %s) n", (last, last + 5_000)
        )
        await nothing(stream, done(), engine)
        assert backend.stats().held == 0


async def test_cursors_beyond_the_sequence_are_of_no_outbox(engine: PostgresWorld) -> None:
    """Whatever rows somebody has put there; and one at the end of an outbox that is otherwise empty is good."""
    await engine.announce(done())
    last = await issued(engine)
    await plant(engine, last + 500)
    async with engine.backend() as backend:
        assert isinstance(backend, ffc.ResumableCompletionBackend)
        for beyond in (last + 1, last + 500):
            with pytest.raises(ffc.CursorExpired, match="future"):
                await backend.subscribe_completions_from(ffc.StreamCursor.outbox(beyond))
        await engine.sql("DELETE FROM ff_completion_event WHERE event_id <= %s", (last,))
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(last)) as stream:
            await nothing(stream, done(), engine)


async def test_a_role_that_may_not_see_the_sequence_reads_on(engine: PostgresWorld) -> None:
    """Nothing tells then which ids are genuine, and all of them count."""
    await engine.sql("DROP ROLE IF EXISTS cannot_see; CREATE ROLE cannot_see LOGIN")
    await engine.sql("GRANT SELECT ON ff_completion_event, ff_exec_core TO cannot_see")
    try:
        async with PostgresBackend(engine.url.replace("//postgres@", "//cannot_see@")) as backend:
            async with ffc.subscribe(backend) as stream:
                await engine.announce(item := done())
                assert (await first(stream)).execution_id == item.execution_id
                await plant(engine, await issued(engine) + 2)
                assert (await first(stream)).outcome == "failed"
                await engine.announce(item := done())
                assert (await first(stream)).execution_id == item.execution_id
    finally:
        await engine.sql("DROP OWNED BY cannot_see; DROP ROLE cannot_see")


async def test_rows_that_are_numbered_elsewhere_all_count(
    engine: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscriber's own sequence does not follow those of its publisher. Who is writing there is not told: one line."""
    await engine.announce(done())
    last = await issued(engine)
    await engine.sql(
        "CREATE SUBSCRIPTION elsewhere CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
    )
    try:
        await engine.sql(
            "INSERT INTO pg_subscription_rel SELECT s.oid, 'ff_completion_event'::regclass, 'r', NULL FROM pg_subscription s"
        )
        async with engine.backend() as backend, ffc.subscribe(backend) as stream:
            conn = await engine.connect()
            await plant(engine, last + 500)
            assert (await first(stream)).outcome == "failed"
            await insert(conn, item := done())
            assert (await first(stream)).execution_id == item.execution_id
            await conn.close()
        assert caplog.text.count("a copy by logical replication") == 1
    finally:
        await engine.sql("DELETE FROM pg_subscription_rel")
        await engine.sql("DROP SUBSCRIPTION elsewhere")
