"""What ends without a row in the outbox, on Postgres: found, by every stream, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, reconciler
from ffcompletion.backends.postgres.silent_reading import SilentReading
from tests.worlds import Done, PostgresWorld, done, eventually, first, nothing, some

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
