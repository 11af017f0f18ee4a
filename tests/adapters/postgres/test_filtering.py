"""The live read on Postgres: by what was announced, never joined; filters decided by a second question, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import filtering, queued
from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.lookups import Lookups
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.contract.protocols import ResumableBackend
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some

# ── hints ────────────────────────────────────────────────────────────────────────────────────────────────────────


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────

ROW: Row = (1, "{fp:0}:x", "success", 0, None, "a")
BARE: Row = (2, "{fp:0}:y", "success", 0, None, None)


async def test_a_tag_nested_too_deep_is_undecided_alone(engine: PostgresWorld) -> None:
    """The batch goes on, live and stored, and asking for that record's state is answered."""
    wanted = ffc.ScannerFilter(instance_tag=("k", "v"))
    poison, good = done(), done(tags={"k": "v"})
    async with engine.backend() as backend, ffc.subscribe(backend, wanted) as stream:
        conn = await engine.connect(autocommit=False)
        partition, _, bare = poison.execution_id[4:].partition("}:")
        text = '{"tags": {"deep": ' + "[" * 2_000 + "]" * 2_000 + "}}"
        await conn.execute(
            "INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, raw_fields) VALUES (%s, %s, 'terminal', %s)",
            (partition, bare, text),
        )
        await insert(conn, poison, core=False)
        await insert(conn, good)
        await conn.commit()
        await conn.close()
        assert (await first(stream)).execution_id == good.execution_id
        assert stream.stats().undecided == 1
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stored:
            assert (await first(stored)).execution_id == good.execution_id
        found = await backend.describe_execution(poison.execution_id)
        assert found is not None
        assert found.is_terminal


async def test_unfiltered_streams_never_wait_for_records(engine: PostgresWorld) -> None:
    """The records' table is locked: unfiltered go on, filtered are withheld, counted, and get all of it in order."""
    wanted = ffc.ScannerFilter("a")
    async with engine.backend(read_timeout=1.0) as backend:
        async with ffc.subscribe(backend) as plain, ffc.subscribe(backend, wanted) as mine:
            items = [done(namespace="a") for _ in range(5)]
            for item in items:
                await engine.begins(item)
            locking = await engine.connect(autocommit=False)
            await locking.execute("LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE")
            for item in items:
                conn = await engine.connect()
                await insert(conn, item, core=False)
                await conn.close()
            assert [p.execution_id for p in await some(plain, 5)] == [item.execution_id for item in items]
            assert backend.stats().waiting == 5
            before = mine.cursor
            await nothing_yet(mine)
            assert mine.cursor == before
            assert mine.cursor is not None
            assert plain.cursor is not None
            assert mine.cursor.position < plain.cursor.position
            await locking.commit()
            await locking.close()
            assert [p.execution_id for p in await some(mine, 5, 20)] == [item.execution_id for item in items]
            await eventually(lambda: mine.cursor == plain.cursor)
            assert backend.stats().waiting == 0


def resumable(backend: object) -> ResumableBackend:
    assert isinstance(backend, ResumableBackend)
    return backend


async def nothing_yet(stream: ffc.CompletionStream) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.__anext__(), 0.2)


async def test_a_filtered_stream_that_joins_while_others_wait_gets_each_once(engine: PostgresWorld) -> None:
    """It joins at the lane's place: what waits there comes once, by the lane or from what is stored."""
    wanted = ffc.ScannerFilter("a")
    items = [done(namespace="a") for _ in range(6)]
    async with engine.backend(read_timeout=1.0) as backend, ffc.subscribe(backend, wanted) as mine:
        for item in items:
            await engine.begins(item)
        ((newest,),) = await engine.sql("SELECT coalesce(max(event_id), 0) FROM ff_completion_event")
        locking = await engine.connect(autocommit=False)
        await locking.execute("LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE")
        conn = await engine.connect()
        for item in items[:3]:
            await insert(conn, item, core=False)
        await eventually(lambda: backend.stats().waiting == 3)
        now = await backend.subscribe_completions_filtered(wanted)
        start = ffc.StreamCursor.outbox(newest) if newest else ffc.StreamCursor.beginning()
        resumed = await resumable(backend).subscribe_completions_from(start, wanted)
        for item in items[3:]:
            await insert(conn, item, core=False)
        await locking.commit()
        await locking.close()
        await conn.close()
        ids = [item.execution_id for item in items]
        assert [p.execution_id for p in await some(mine, 6, 20)] == ids
        assert [p.execution_id for p in await some(resumed, 6, 20)] == ids
        # It was opened when three had been committed and waited: those may come, the others have to.
        assert [p.execution_id for p in await some(now, 3, 20)][-3:] in (ids[:3], ids[3:])
        for stream in (now, resumed):
            await stream.aclose()


async def test_what_waits_too_long_for_records_is_bounded(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its streams go on from what is stored; nothing is lost, nothing repeated."""
    monkeypatch.setattr(filtering, "_WAITING", 20)
    wanted = ffc.ScannerFilter("a")
    items = [done(namespace="a") for _ in range(60)]
    async with engine.backend(read_timeout=1.0) as backend, ffc.subscribe(backend, wanted) as mine:
        for item in items:
            await engine.begins(item)
        locking = await engine.connect(autocommit=False)
        await locking.execute("LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE")
        conn = await engine.connect()
        for item in items:
            await insert(conn, item, core=False)
        await conn.close()
        await eventually(lambda: mine.stats().overflows >= 1)
        assert backend.stats().waiting <= 20
        await locking.commit()
        await locking.close()
        assert [p.execution_id for p in await some(mine, 60, 20)] == [item.execution_id for item in items]
        await eventually(lambda: not mine.stats().catching_up)
        await nothing(mine, done(namespace="a"), engine)


# ── another history ──────────────────────────────────────────────────────────────────────────────────────────────


# ── what a wake costs ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_row_s_namespace_decides_and_the_core_s_where_it_has_none(postgres: PostgresWorld) -> None:
    """NULL in the outbox asks the core; no core and NULL admits nobody; the ambiguous tag column never decides."""
    wanted = ffc.ScannerFilter("a")
    tagged = ffc.ScannerFilter(instance_tag=("k", "v"))
    async with postgres.backend() as backend:
        stream = await backend.subscribe_completions_filtered(wanted)
        tags = await backend.subscribe_completions_filtered(tagged)
        conn = await postgres.connect()
        by_row, by_core, unknown = done(), done(namespace="a"), done()
        for item, namespace in ((by_row, "a"), (unknown, None), (done(namespace="a"), "b")):
            partition, _, bare = item.execution_id[4:].partition("}:")
            if item.namespace is not None:
                await conn.execute(
                    "INSERT INTO ff_exec_core (partition_key, execution_id, raw_fields) VALUES (%s, %s, %s)",
                    (partition, bare, json.dumps({"namespace": item.namespace})),
                )
            await conn.execute(
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, instance_tag,"
                " occurred_at_ms) VALUES (%s, %s, 'success', %s, 'k=v', 0)",
                (partition, bare, namespace),
            )
        await insert(conn, by_core)
        last = done(namespace="a", tags={"k": "v"})
        await insert(conn, last)
        await conn.close()
        expected = [by_row.execution_id, by_core.execution_id, last.execution_id]
        assert [p.execution_id for p in await some(stream, 3)] == expected
        assert (await first(tags)).execution_id == last.execution_id
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stored:
            assert [p.execution_id for p in await some(stored, 3)] == expected
        await stream.aclose()
        await tags.aclose()


async def test_tags_that_are_not_strings(postgres: PostgresWorld) -> None:
    """A JSON number is no string: it matches by its text in SQL and in the loop alike."""
    conn = await postgres.connect()
    item = done(namespace="a")
    partition, _, bare = item.execution_id[4:].partition("}:")
    await conn.execute(
        "INSERT INTO ff_exec_core (partition_key, execution_id, raw_fields) VALUES (%s, %s, %s)",
        (partition, bare, json.dumps({"namespace": "a", "tags": {"n": 5, "x": None}})),
    )
    wanted = ffc.ScannerFilter("a", ("n", "5"))
    async with postgres.backend() as backend:
        live = await backend.subscribe_completions_filtered(wanted)
        await insert(conn, item, core=False)
        await conn.close()
        assert (await first(live)).execution_id == item.execution_id
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stored:
            assert (await first(stored)).execution_id == item.execution_id
        await live.aclose()


async def test_a_flood_is_looked_up_once_for_all_streams(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows at once than are held: they are read again in their turn, and nobody is sent to read them alone."""
    monkeypatch.setattr(queued, "_HELD", 100)
    asked: list[str] = []
    records = Lookups.records

    async def counted(self: Lookups, conn: Connection, names: Sequence[str], seconds: float) -> dict[str, Record]:
        asked.extend(names)
        return await records(self, conn, names, seconds)

    monkeypatch.setattr(Lookups, "records", counted)
    flood, mine = [done(namespace="flood") for _ in range(3_000)], [done(namespace=f"t{n}") for n in range(5)]
    async with engine.backend(poll_interval=0.2) as backend, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(ffc.subscribe(backend, ffc.ScannerFilter(f"t{n}"))) for n in range(5)
        ]
        conn = await engine.connect(autocommit=False)
        # Two writers by turns, so that ids have gaps for a while.
        late = await engine.connect(autocommit=False)
        await insert(late, mine[0])
        for item in (*flood, *mine[1:]):
            await insert(conn, item)
        await conn.commit()
        await eventually(lambda: backend.stats().waiting == 0 and len(asked) >= 3_000)
        await late.commit()
        for stream, item in zip(streams, mine, strict=True):
            assert (await first(stream)).execution_id == item.execution_id
            stats = stream.stats()
            assert (stats.overflows, stats.undecided, stats.delivered) == (0, 0, 1)
        await eventually(lambda: all(stream.stats().filtered == 3_004 for stream in streams))
        for each in (conn, late):
            await each.close()
    assert len(asked) == len(set(asked)) == 3_005
