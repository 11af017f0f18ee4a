"""A stored position of another history: the outbox was emptied, restored or replaced while the consumer was away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints, reader
from ffcompletion.backends.postgres.history import Mark
from tests.worlds import Done, PostgresWorld, done, insert, nothing, some
from tests.worlds.proxy import Proxy
from tests.worlds.templates import postgres


@pytest.fixture(params=["file", "table"])
async def store(
    request: pytest.FixtureRequest, postgres: PostgresWorld, tmp_path: Path
) -> AsyncGenerator[ffc.CheckpointStore]:
    """Both keep what is needed."""
    if request.param == "file":
        yield ffc.FileCheckpoints(tmp_path / "position")
        return
    async with PostgresCheckpoints(postgres.url, table="histories") as made:
        yield made
    await postgres.sql("DROP TABLE IF EXISTS histories")


async def process(world: PostgresWorld, store: ffc.CheckpointStore, wanted: Sequence[Done]) -> None:
    """Start the consumer again; it gets these, in order, and stops."""
    async with PostgresBackend(world.url) as backend:
        start = ffc.StreamCursor.beginning()
        async with ffc.checkpointed(backend, store, "consumer", start=start) as completions:
            for item in wanted:
                assert (await anext(completions)).execution_id == item.execution_id
            await completions.commit()


@pytest.fixture
async def stopped(postgres: PostgresWorld, store: ffc.CheckpointStore) -> PostgresWorld:
    """A consumer has processed five, stored and live, and stopped."""
    items = [done() for _ in range(5)]
    await postgres.announce(*items[:3])
    await process(postgres, store, items[:3])
    async with PostgresBackend(postgres.url) as backend:
        async with ffc.checkpointed(backend, store, "consumer") as completions:
            await postgres.announce(*items[3:])
            for item in items[3:]:
                assert (await anext(completions)).execution_id == item.execution_id
            await completions.commit()
    return postgres


async def test_a_truncated_outbox_that_has_passed_the_position(
    stopped: PostgresWorld, store: ffc.CheckpointStore
) -> None:
    """Its ids name others by now: nothing is passed over in silence."""
    high = (await stopped.sql("SELECT max(event_id) FROM ff_completion_event"))[0][0]
    await stopped.sql("TRUNCATE ff_completion_event RESTART IDENTITY")
    await stopped.sql(f"SELECT setval('ff_completion_event_event_id_seq', {high - 2})")
    await stopped.announce(*[done() for _ in range(10)])
    with pytest.raises(ffc.CursorExpired, match="another history"):
        await process(stopped, store, [])


async def test_a_truncated_outbox_that_has_not(stopped: PostgresWorld, store: ffc.CheckpointStore) -> None:
    """The position lies in its future."""
    await stopped.sql("TRUNCATE ff_completion_event RESTART IDENTITY")
    await stopped.announce(done())
    with pytest.raises(ffc.CursorExpired):
        await process(stopped, store, [])
    await stopped.sql("SELECT setval('ff_completion_event_event_id_seq', 100000)")


async def test_an_altered_sequence_is_the_same_history(stopped: PostgresWorld, store: ffc.CheckpointStore) -> None:
    """It has another file, as one that was restarted has; the rows tell."""
    await stopped.sql("ALTER TABLE ff_completion_event ALTER event_id SET CACHE 1")
    later = done()
    await stopped.announce(later)
    await process(stopped, store, [later])


async def test_a_restored_outbox_is_the_same_history(stopped: PostgresWorld, store: ffc.CheckpointStore) -> None:
    """Other tables with the same rows: after a dump and its restoring, or an upgrade."""
    high = (await stopped.sql("SELECT max(event_id) FROM ff_completion_event"))[0][0]
    await stopped.sql("CREATE TABLE kept AS SELECT * FROM ff_completion_event")
    await stopped.sql("TRUNCATE ff_completion_event RESTART IDENTITY")
    await stopped.sql("ALTER TABLE ff_completion_event DISABLE TRIGGER USER")
    await stopped.sql("INSERT INTO ff_completion_event OVERRIDING SYSTEM VALUE SELECT * FROM kept")
    await stopped.sql("ALTER TABLE ff_completion_event ENABLE TRIGGER USER")
    await stopped.sql(f"DROP TABLE kept; SELECT setval('ff_completion_event_event_id_seq', {high})")
    later = done()
    await stopped.announce(later)
    await process(stopped, store, [later])


async def test_a_position_of_before_says_nothing_of_its_history(
    stopped: PostgresWorld, store: ffc.CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    """One that an earlier version stored is taken as it is; one without a row to tell by, with a warning."""
    stored = await store.load("consumer")
    assert stored is not None
    family, _, history = stored.backend.partition(" ")
    mark = Mark.parse(history)
    assert family == "outbox"
    assert mark is not None
    assert mark.witness is not None
    await store.save("consumer", ffc.Checkpoint(cursor=stored.cursor, backend="outbox", selection=stored.selection))
    caplog.set_level(logging.WARNING, "ffcompletion")
    later = done()
    await stopped.announce(later)
    await process(stopped, store, [later])
    assert not caplog.records
    unknown = str(Mark(mark.database, mark.outbox, 1))
    kept = ffc.Checkpoint(cursor=stored.cursor, backend=f"outbox {unknown}", selection=stored.selection)
    await store.save("consumer", kept)
    await process(stopped, store, [later])
    assert ["cannot be told" in message for message in caplog.messages] == [True]


async def test_a_truncated_outbox_that_begins_anew_is_read_from_its_beginning(
    database: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """TRUNCATE RESTART IDENTITY, fewer rows than before, or more: one warning, and every new row once."""
    async with (
        database.backend() as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, ffc.ScannerFilter("a")) as mine,
    ):
        for count in (10, 40):
            await database.announce(*[done(namespace="a") for _ in range(20)])
            await some(stream, 20)
            await some(mine, 20)
            conn = await database.connect(autocommit=False)
            await conn.execute("TRUNCATE ff_completion_event RESTART IDENTITY")
            items = [done(namespace="a") for _ in range(count)]
            for item in items:
                await insert(conn, item)
            await conn.commit()
            await conn.close()
            ids = [item.execution_id for item in items]
            assert [p.execution_id for p in await some(stream, count, 10)] == ids
            assert [p.execution_id for p in await some(mine, count, 10)] == ids
            await nothing(stream, done(), database)
            # The one of `nothing` was for everybody.
        assert sum("history was replaced" in line for line in caplog.messages) == 2


@pytest.mark.parametrize(("seen", "lost"), [(0, 1), (5, 6), (5, 40)])
async def test_a_copy_that_lacks_all_that_was_read_is_not_read_from_its_beginning(
    database: PostgresWorld, caplog: pytest.LogCaptureFixture, seen: int, lost: int
) -> None:
    """A replica that lagged, or a dump: of what is older than the stream, no more comes than in proportion to what is lost."""
    await database.announce(*[done(namespace="a") for _ in range(600)])
    async with (
        database.backend(poll_interval=0.1) as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, ffc.ScannerFilter("a")) as mine,
    ):
        await database.announce(*[done(namespace="a") for _ in range(seen)])
        await some(stream, seen)
        await some(mine, seen)
        ((high,),) = await database.sql("SELECT max(event_id) FROM ff_completion_event")
        await database.sql(
            f"DELETE FROM ff_completion_event WHERE event_id > {high - lost};"
            f" SELECT setval('ff_completion_event_event_id_seq', {high - lost})"
        )
        while not any("history was replaced" in line for line in caplog.messages):
            await asyncio.sleep(0.05)
        await database.announce(later := done(namespace="a"))
        for each in (stream, mine):
            got = [(await some(each, 1, 10))[0].execution_id]
            while got[-1] != later.execution_id:
                got += [(await some(each, 1, 10))[0].execution_id]
            assert len(got) <= 1 + 4 * lost
    assert sum("history was replaced" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("committed", [0, 1])
async def test_a_replaced_history_whose_rows_are_still_to_come(database: PostgresWorld, committed: int) -> None:
    """Its first ids are those of a transaction that has not ended, when it is compared with what was read."""
    async with database.backend(poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await database.announce(*[done() for _ in range(8)])
        await some(stream, 8)
        await database.sql("TRUNCATE ff_completion_event RESTART IDENTITY")
        late, early = [done() for _ in range(5)], [done() for _ in range(committed)]
        writer = await database.connect(autocommit=False)
        for item in late:
            await insert(writer, item)
        await database.announce(*early)
        assert [p.execution_id for p in await some(stream, committed, 10)] == [item.execution_id for item in early]
        await asyncio.sleep(0.5)
        await writer.commit()
        assert [p.execution_id for p in await some(stream, 5, 10)] == [item.execution_id for item in late]


async def test_a_history_that_is_replaced_after_it_was_compared(
    database: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing came in between: what it was known by, it is known by still."""
    async with database.backend(poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await database.announce(*[done() for _ in range(4)])
        await some(stream, 4)
        # Another file, the same rows.
        await database.sql("ALTER TABLE ff_completion_event ALTER event_id SET CACHE 1")
        await asyncio.sleep(0.5)
        assert not caplog.messages
        items = [done() for _ in range(9)]
        writer = await database.connect(autocommit=False)
        await writer.execute("TRUNCATE ff_completion_event RESTART IDENTITY")
        for item in items:
            await insert(writer, item)
        await writer.commit()
        assert [p.execution_id for p in await some(stream, 9, 10)] == [item.execution_id for item in items]
        assert sum("history was replaced" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("count", [8, 12])
async def test_a_history_that_is_replaced_by_hand(
    database: PostgresWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Emptied, the sequence set back, and as many rows written as before: the sequence tells nothing, a row does."""
    monkeypatch.setattr(reader, "_LOOK_ANYWAY_S", 0.2)
    async with database.backend(poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await database.announce(*[done() for _ in range(8)])
        await some(stream, 8)
        await asyncio.sleep(0.5)
        left = {item.execution_id for item in (done() for _ in range(count))}
        names = [name[4:].partition("}:") for name in left]
        # At once: what setval does is seen before it is committed.
        await database.sql(
            "DELETE FROM ff_completion_event; SELECT setval('ff_completion_event_event_id_seq', 1, false);"
            " INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms) VALUES "
            + ", ".join(f"({part}, '{bare}', 'success', 0)" for part, _, bare in names)
        )
        async with asyncio.timeout(10):
            while left:
                left.discard((await anext(stream)).execution_id)
        assert any("history was replaced" in line for line in caplog.messages)


@pytest.mark.parametrize("lag", [0, 5])
async def test_a_proxy_that_leads_to_a_copy_of_the_server(lag: int) -> None:
    """A restored one that lacks the last few, whose ids are others' there: all that is new there comes, and nothing twice.

    It has the same system identifier, names and oids, and its sequence has passed the position when it is first seen.
    """
    with postgres() as first, postgres() as copy, Proxy(str(first.directory / ".s.PGSQL.5432")) as proxy:
        async with (
            PostgresWorld(18, first.url) as old,
            PostgresWorld(18, copy.url) as new,
            PostgresBackend(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres", poll_interval=0.2) as backend,
            ffc.subscribe(backend) as stream,
        ):
            common, rest, later = ([done() for _ in range(count)] for count in (10, lag, 10))
            await old.announce(*common)
            await new.announce(*common)
            await old.announce(*rest)
            await some(stream, 10 + lag)
            await new.announce(*later)
            proxy.lead_to(str(copy.directory / ".s.PGSQL.5432"))
            proxy.cut()
            assert [each.execution_id for each in await some(stream, 10)] == [item.execution_id for item in later]
