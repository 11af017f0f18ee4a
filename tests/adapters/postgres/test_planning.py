"""How a server is looked at for ends without a row: what is missing for it, and where there is nothing to look for."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from psycopg import AsyncConnection

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.producers import install
from tests.adapters.postgres.test_reconciler import NOW
from tests.worlds import Done, PostgresWorld, done, first, insert, nothing, some


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
    postgres18_url: str, engine: PostgresWorld
) -> None:
    """``reconcile_interval=0``; and in our own tables nothing ends without a row."""
    item = done()
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0) as backend, ffc.subscribe(backend) as stream:
        await engine.cancels(item)
        await asyncio.sleep(0.3)
        await nothing(stream, done(), engine)
    name = f"own_{uuid.uuid4().hex}"
    url = postgres18_url.replace("/postgres?", f"/{name}?")
    async with await AsyncConnection.connect(postgres18_url, autocommit=True) as conn:
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
