"""A stored position of another history: the outbox was emptied, restored or replaced while the consumer was away."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints
from ffcompletion.backends.postgres.history import Mark
from tests.worlds import Done, PostgresWorld, done


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
