"""What ends without a row in the outbox, on Postgres: found, by every stream, once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.errors import InsufficientPrivilege

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, changes, reconciler, unread
from ffcompletion.backends.postgres.silent_reading import SilentReading
from ffcompletion.producers import install
from tests.worlds import Done, PostgresWorld, done, eventually, first, insert, nothing, some

NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
A = ffc.ScannerFilter("a")


async def finish(world: PostgresWorld, item: Done) -> None:
    """As the engine finishes: record and row, with one time, in one transaction."""
    partition, _, bare = item.execution_id[4:].partition("}:")
    conn = await world.connect(autocommit=False)
    await conn.execute(
        f"WITH t AS MATERIALIZED (SELECT {NOW} AS ms), r AS (UPDATE ff_exec_core SET lifecycle_phase = 'terminal',"
        " terminal_at_ms = t.ms FROM t WHERE partition_key = %s AND execution_id = %s)"
        " INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
        " SELECT %s, %s, 'success', ms FROM t".encode(),
        (partition, bare, partition, bare),
    )
    await conn.commit()
    await conn.close()


async def test_each_of_a_thousand_cancels_is_seen_once(engine: PostgresWorld) -> None:
    """By an unfiltered stream, a filtered one, and one that is resumed afterwards; strangers' are not."""
    items = [done(namespace="a" if number % 2 else "b", flow_id=None) for number in range(1_000)]
    mine = {item.execution_id for item in items if item.namespace == "a"}
    conn = await engine.connect(autocommit=False)
    for item in items:
        partition, _, bare = item.execution_id[4:].partition("}:")
        await conn.execute(
            "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, raw_fields)"
            " VALUES (%s, %s, 'default', 'active', jsonb_build_object('namespace', %s::text))",
            (partition, bare, item.namespace),
        )
    await conn.commit()
    await conn.close()
    async with PostgresBackend(engine.url, reconcile_interval=0.2) as backend:
        async with ffc.subscribe(backend) as stream, ffc.subscribe(backend, A) as filtered:
            marker = done(namespace="a")
            await engine.sql(
                f"INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
                f" VALUES (1, '{marker.execution_id.partition('}:')[2]}', 'success', 'a', {NOW})"
            )
            cursor = (await first(stream)).cursor
            await first(filtered)
            for start in range(0, 1_000, 250):
                await engine.cancels(*items[start : start + 250])
            got = await some(stream, 1_000, 30)
            assert {p.execution_id for p in got} == {item.execution_id for item in items}
            assert {p.outcome for p in got} == {"cancelled"}
            assert {p.cursor for p in got} == {cursor}
            assert {p.execution_id for p in await some(filtered, 500, 30)} == mine
            assert backend.stats().reconciled == 1_000
            await asyncio.sleep(0.5)
            await nothing(stream, done(), engine)
            assert filtered.stats().buffered == 0
            await eventually(lambda: filtered.stats().filtered == 500 + 1)
        async with ffc.subscribe(backend, A, cursor=cursor) as resumed:
            assert {p.execution_id for p in await some(resumed, 500, 30)} == mine
            await asyncio.sleep(0.5)
            await nothing(resumed, done(namespace="a"), engine)


async def test_what_ends_while_a_look_is_under_way_has_its_row(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: nobody is told that it failed. Live, and for who wants results, which are read apart."""
    items: list[Done] = []
    read = SilentReading.read

    async def later(self: SilentReading, *values: Any) -> object:
        # Between what a look begins with and its first page, and again before the next one.
        if len(items) < 6:
            items.append(item := done(namespace="a"))
            await engine.begins(item)
            await finish(engine, item)
        return await read(self, *values)

    monkeypatch.setattr(SilentReading, "read", later)
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A) as stream, ffc.subscribe(backend, A, results=True) as rich:
            await eventually(lambda: len(items) == 6)
            await engine.begins(silent := done(namespace="a"))
            await engine.cancels(silent)
            for each in (stream, rich):
                got = {(item.execution_id, item.outcome) for item in await some(each, 7)}
                assert got == {*((item.execution_id, "success") for item in items), (silent.execution_id, "cancelled")}


async def test_a_partition_that_somebody_fills_holds_up_no_look(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its pages take: what ends elsewhere is looked for between two of them."""
    monkeypatch.setattr(unread, "_MOST_ROWS", 32)
    monkeypatch.setattr(reconciler, "_TURN_S", 0.05)
    # Looking at everything is not to become so dear, on a busy machine, that partitions wait until they are counted.
    monkeypatch.setattr(changes, "_DEAR_S", 60.0)
    item, pages, ended_at = done(namespace="a"), 0, 0
    read = SilentReading.read

    async def counted(self: SilentReading, conn: Any, lookups: Any, plan: Any, piece: Sequence[unread.Mark]) -> object:
        nonlocal pages, ended_at
        if any(mark.key == 5 and mark.after for mark in piece):
            # One more page of its many records, alone or beside what the next look has asked for by now.
            pages += 1
            if not ended_at:
                await engine.cancels(item)
                ended_at = pages
            await asyncio.sleep(0.1)
        return await read(self, conn, lookups, plan, piece)

    monkeypatch.setattr(SilentReading, "read", counted)
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.2) as backend:
        async with ffc.subscribe(backend, A) as stream:
            await engine.sql(
                "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, terminal_at_ms, raw_fields)"
                f" SELECT 5, gen_random_uuid(), 'default', 'cancelled', {NOW}, '{{\"namespace\":\"mallory\"}}'"
                " FROM generate_series(1, 2000)"
            )
            assert (await first(stream)).execution_id == item.execution_id
    assert pages - ended_at <= 6


async def test_what_has_a_row_is_not_found_again_and_a_replay_is_new(engine: PostgresWorld) -> None:
    """A row and a record of one time are one completion; ended again after a replay, without a row, is another."""
    item = done()
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await engine.begins(item)
        await finish(engine, item)
        assert (await first(stream)).outcome == "success"
        await asyncio.sleep(0.4)
        await nothing(stream, done(), engine)
        for _ in range(2):
            await engine.begins(item)
            await asyncio.sleep(0.02)
            at_ms = await engine.cancels(item)
            again = await first(stream)
            assert (again.execution_id, again.outcome, again.produced_at_ms) == (item.execution_id, "cancelled", at_ms)
        assert backend.stats().reconciled == 2


async def test_a_row_that_comes_later_for_the_same_completion_is_not_delivered_again(engine: PostgresWorld) -> None:
    """It counts as filtered; a later one of another time is another completion."""
    item = done()
    partition, _, bare = item.execution_id[4:].partition("}:")
    row = (
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
        " VALUES (%s, %s, 'cancelled', %s)"
    )
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await engine.begins(item)
        at_ms = await engine.cancels(item)
        assert (await first(stream)).execution_id == item.execution_id
        await engine.sql(row, (partition, bare, at_ms))
        await nothing(stream, done(), engine)
        assert stream.stats().filtered == 1
        await engine.sql(row, (partition, bare, at_ms + 60_000))
        assert (await first(stream)).execution_id == item.execution_id


async def test_a_row_whose_record_was_found_first_and_is_anothers_is_delivered(engine: PostgresWorld) -> None:
    """The end that a filter did not admit takes nothing away from the tenant that the row names."""
    item = done(namespace="b", flow_id=None)
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A) as mine, ffc.subscribe(backend, ffc.ScannerFilter("b")) as theirs:
            await engine.begins(item)
            at_ms = await engine.cancels(item)
            assert (await first(theirs)).produced_at_ms == at_ms
            await eventually(lambda: mine.stats().filtered == 1)
            partition, _, bare = item.execution_id[4:].partition("}:")
            await engine.sql(
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
                " VALUES (%s, %s, 'success', 'a', %s)",
                (partition, bare, at_ms),
            )
            assert (await first(mine)).execution_id == item.execution_id


async def test_results_of_what_ended_in_silence(engine: PostgresWorld) -> None:
    """A failure at the reclaim cap: terminal, no row; with its result for who asks, by tag, and by its right outcome."""
    item, expired = done(namespace="a", tags={"k": "v"}, result=b"r"), done(namespace="a", tags={"k": "v"})
    wanted = ffc.ScannerFilter("a", ("k", "v"))
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, wanted, results=True) as stream:
            for each, reason in ((item, None), (expired, "attempt_timeout")):
                await engine.begins(each)
                partition, _, bare = each.execution_id[4:].partition("}:")
                await engine.sql(
                    f"UPDATE ff_exec_core SET lifecycle_phase = 'terminal', terminal_at_ms = {NOW}, result = %s,"
                    " cancellation_reason = %s WHERE partition_key = %s AND execution_id = %s",
                    (each.result, reason, partition, bare),
                )
            got = {p.execution_id: (p.outcome, p.payload_bytes) for p in await some(stream, 2)}
            assert got == {item.execution_id: ("failed", b"r"), expired.execution_id: ("expired", None)}


async def test_a_slow_consumer_gets_all_of_it_and_memory_is_bounded(engine: PostgresWorld) -> None:
    """More than fit its buffer: at its own pace, each once, while another has them at once."""
    items = [done() for _ in range(60)]
    for item in items:
        await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.1, buffer_size=5) as backend:
        async with ffc.subscribe(backend) as slow, ffc.subscribe(backend) as quick:
            reading = asyncio.ensure_future(some(quick, 60, 30))
            await engine.cancels(*items)
            assert {p.execution_id for p in await reading} == {item.execution_id for item in items}
            assert slow.stats().buffered <= 5
            got = [p.execution_id for p in await some(slow, 60, 30)]
            assert sorted(got) == sorted(item.execution_id for item in items)
            await nothing(slow, done(), engine)


async def test_a_missing_right_or_index_is_told_once_and_nothing_is_missed(
    engine: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the lanes' table, or an index that leads to them, whole partitions are read."""
    await engine.sql("DROP SCHEMA IF EXISTS bare CASCADE; DROP ROLE IF EXISTS looker")
    await engine.sql(
        "CREATE SCHEMA bare; CREATE ROLE looker LOGIN; GRANT USAGE ON SCHEMA bare TO looker;"
        "CREATE TABLE bare.ff_completion_event (LIKE public.ff_completion_event INCLUDING ALL);"
        "CREATE TABLE bare.ff_exec_core (LIKE public.ff_exec_core INCLUDING DEFAULTS);"
        "CREATE TABLE bare.ff_lane_registry (LIKE public.ff_lane_registry);"
        "GRANT SELECT ON bare.ff_completion_event, bare.ff_exec_core TO looker"
    )
    try:
        url = engine.url.replace("postgres@", "looker@", 1)
        async with PostgresBackend(url, schema="bare", reconcile_interval=0.1) as backend:
            async with ffc.subscribe(backend) as stream:
                await engine.sql(
                    "INSERT INTO bare.ff_exec_core (partition_key, execution_id, lifecycle_phase, terminal_at_ms)"
                    f" VALUES (7, gen_random_uuid(), 'cancelled', {NOW})"
                )
                assert (await first(stream)).outcome == "cancelled"
        for what in ('GRANT SELECT ON "bare"."ff_lane_registry"', "no index on the records'"):
            assert sum(what in line for line in caplog.messages) == 1
    finally:
        await engine.sql("DROP SCHEMA bare CASCADE; DROP ROLE looker")


async def test_nothing_is_looked_for_where_it_is_turned_off_or_our_own_producer_writes(
    engine18_url: str, engine: PostgresWorld
) -> None:
    """``reconcile_interval=0``; and in our own tables nothing ends without a row."""
    item = done()
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0) as backend, ffc.subscribe(backend) as stream:
        await engine.cancels(item)
        await asyncio.sleep(0.3)
        await nothing(stream, done(), engine)
    name = f"own_{uuid.uuid4().hex}"
    url = engine18_url.replace("/postgres?", f"/{name}?")
    async with await AsyncConnection.connect(engine18_url, autocommit=True) as conn:
        await conn.execute(f"CREATE DATABASE {name}".encode())
        try:
            await install(url)
            own = PostgresWorld(18, url)
            async with PostgresBackend(url, reconcile_interval=0.05) as backend, ffc.subscribe(backend) as stream:
                await own.begins(item)
                await own.cancels(item)
                await asyncio.sleep(0.3)
                marker = done()
                other = await own.connect(autocommit=False)
                await insert(other, marker)
                await other.commit()
                assert (await first(stream)).execution_id == marker.execution_id
            await own.close()
        finally:
            await conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("interval", [float("nan"), float("inf"), -1.0])
def test_an_interval_that_is_no_number_of_seconds_is_refused(interval: float) -> None:
    """Not a busy loop, and not never by accident."""
    with pytest.raises(ffc.Validation, match="reconcile_interval"):
        PostgresBackend("postgresql://localhost/x", reconcile_interval=interval)


async def test_a_fault_while_looking_is_tried_again(engine: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """The connections are cut: one line, and the next look finds it."""
    item = done()
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.2) as backend, ffc.subscribe(backend) as stream:
        await engine.drop_connections()
        await engine.cancels(item)
        await engine.drop_connections()
        assert (await first(stream, 20)).execution_id == item.execution_id
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)


async def test_a_fault_that_lasts_is_told_once(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried meanwhile: a right that was taken away, a table that is locked."""
    item = done()
    await engine.begins(item)
    tries = 0
    read = SilentReading.read

    async def refused(self: SilentReading, *given: Any) -> object:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise InsufficientPrivilege
        return await read(self, *given)

    monkeypatch.setattr(SilentReading, "read", refused)
    monkeypatch.setattr(reconciler, "_RETRY_S", 0.25)
    async with PostgresBackend(engine.url, reconcile_interval=0.3) as backend, ffc.subscribe(backend) as stream:
        await engine.cancels(item)
        assert (await first(stream, 20)).execution_id == item.execution_id
    assert tries >= 5
    assert sum("looking for what ended without a row failed" in line for line in caplog.messages) == 1


# ── the decisions ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_the_server_counts_late_is_found_as_well(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is in a transaction has not told what it wrote in the one before; by then, other looks are over."""
    monkeypatch.setattr("ffcompletion.backends.postgres.changes._DEAR_LOOKS", 0)
    monkeypatch.setattr("ffcompletion.backends.postgres.changes._LONG_S", 2.5)
    monkeypatch.setattr("ffcompletion.backends.postgres.reconciler.OVERLAP_MS", 200)
    told, untold, later = items = [done() for _ in range(3)]

    async def cancel_on(conn: AsyncConnection, item: Done) -> None:
        partition, _, bare = item.execution_id[4:].partition("}:")
        await conn.execute(
            f"UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', terminal_at_ms = {NOW}"
            f" WHERE partition_key = {partition} AND execution_id = '{bare}'".encode()
        )

    for item in items:
        await engine.begins(item)
    # What a connection writes is told at once, and then once a second at the most.
    one, other = await engine.connect(), await engine.connect()
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await asyncio.sleep(1.1)
        await cancel_on(one, told)
        await cancel_on(one, untold)
        await one.execute("BEGIN")
        assert (await first(stream)).execution_id == told.execution_id
        await asyncio.sleep(0.3)
        await cancel_on(other, later)
        assert {p.execution_id for p in await some(stream, 2)} == {later.execution_id, untold.execution_id}
    await one.close()
    await other.close()


@pytest.mark.parametrize("ahead_ms", [0, 10**12])
async def test_what_was_not_found_before_a_restart_is_found_after_it(engine: PostgresWorld, ahead_ms: int) -> None:
    """Rows that come later move the position, and one of them says that it is of the future."""
    item, later = done(), done()
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=30) as backend, ffc.subscribe(backend) as stream:
        at_ms = await engine.cancels(item)
        partition, _, bare = later.execution_id[4:].partition("}:")
        await engine.sql(
            "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " VALUES (%s, %s, 'success', %s)",
            (partition, bare, at_ms + 5_000 + ahead_ms),
        )
        got = await first(stream)
        assert got.execution_id == later.execution_id
    async with (
        PostgresBackend(engine.url, reconcile_interval=0.2) as again,
        ffc.subscribe(again, cursor=got.cursor) as resumed,
    ):
        found = await first(resumed)
        assert (found.execution_id, found.outcome) == (item.execution_id, "cancelled")
