"""Postgres: against psycopg's bare ``notifies()``, one query per notification, and a bare paged SELECT."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path
from typing import Any

import psycopg

import ffcompletion as ffc
from benchmarks import producer
from benchmarks.table import Row, consume, median
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.valkey import ValkeyBackend

BURST = 50_000
ENGINE_SQL = Path(__file__).parent.parent / "tests" / "data" / "engine.sql"
COLUMNS = "event_id, '{fp:' || partition_key || '}:' || execution_id, outcome, occurred_at_ms, flow_id::text"
REPLAY = f"SELECT {COLUMNS} FROM ff_completion_event WHERE event_id > %s ORDER BY event_id LIMIT %s"


async def prepare(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        found = await (await conn.execute("SELECT to_regclass('ff_completion_event')")).fetchone()
        if found == (None,):
            await conn.execute(ENGINE_SQL.read_bytes())


async def _listening(url: str) -> psycopg.AsyncConnection[Any]:
    conn = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await conn.execute("LISTEN ff_completion")
    return conn


async def _newest(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        row = await (await conn.execute("SELECT coalesce(max(event_id), 0) FROM ff_completion_event")).fetchone()
    return int(row[0]) if row else 0


async def _bare_burst(url: str) -> float:
    """Counting notifications, as they come."""
    conn = await _listening(url)
    process = producer.start("insert", url, BURST, 100)
    started = producer.go(process)
    seen = 0
    async for _ in conn.notifies():
        seen += 1
        if seen == BURST:
            break
    took = time.perf_counter() - started
    await conn.close()
    producer.finish(process)
    return BURST / took


async def _query_per_notification(url: str, count: int) -> float:
    newest = await _newest(url)
    conn = await _listening(url)
    reader = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await reader.execute("SET plan_cache_mode = force_generic_plan")
    process = producer.start("insert", url, count, 100)
    started = producer.go(process)
    seen = 0
    async for note in conn.notifies():
        cursor = await reader.execute(REPLAY, (newest, 1), prepare=True)
        await cursor.fetchall()
        newest = int(note.payload)
        seen += 1
        if seen == count:
            break
    took = time.perf_counter() - started
    await conn.close()
    await reader.close()
    producer.finish(process)
    return count / took


async def _our_burst(url: str) -> tuple[float, float]:
    async with PostgresBackend(url, buffer_size=BURST) as backend, ffc.subscribe(backend) as stream:
        process = producer.start("insert", url, BURST, 100)
        started, cpu = producer.go(process), time.process_time()
        await consume(stream, BURST)
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        producer.finish(process)
    return BURST / took, cpu / BURST


async def burst(url: str) -> list[Row]:
    await prepare(url)
    ours, bare, cpu, slow = [], [], [], []
    for _ in range(7):
        bare.append(await _bare_burst(url))
        rate, per_row = await _our_burst(url)
        ours.append(rate)
        cpu.append(per_row)
        slow.append(await _query_per_notification(url, 2000))
    return [
        Row(
            what=f"burst of {BURST:,} rows in transactions of 100, insert to yield, against bare `notifies()`; median of 7; our CPU {median(cpu) * 1e6:.1f} µs a row",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(bare):,.0f}/s",
            ratio=f"{median([a / b for a, b in zip(ours, bare, strict=True)]):.2f}",
            floor="0.85",
            goal="1.0",
        ),
        Row(
            what="the same, against one replay query per notification",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(slow):,.0f}/s",
            ratio=f"{median([a / b for a, b in zip(ours, slow, strict=True)]):.0f}×",
            floor="30×",
            goal="55×",
        ),
    ]


async def _fill(url: str, count: int) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("SET session_replication_role = replica")
        await conn.execute(
            "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
            " SELECT n %% 256, gen_random_uuid(), gen_random_uuid(), 'success', n FROM generate_series(1, %s) n",
            (count,),
        )
        await conn.execute("VACUUM ANALYZE ff_completion_event")


async def catchup(url: str) -> list[Row]:
    total = 500_000
    await prepare(url)
    await _fill(url, total)
    ours, bare = [], []
    for _ in range(7):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            await conn.execute("SET plan_cache_mode = force_generic_plan")
            started, after, seen = time.perf_counter(), 0, 0
            async with conn.cursor(binary=True) as cursor:
                while True:
                    await cursor.execute(REPLAY, (after, 5000), prepare=True)
                    rows = await cursor.fetchall()
                    if not rows:
                        break
                    after, seen = rows[-1][0], seen + len(rows)
            bare.append(seen / (time.perf_counter() - started))
        async with PostgresBackend(url) as backend:
            started = time.perf_counter()
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
                await consume(stream, total)
            ours.append(total / (time.perf_counter() - started))
    return [
        Row(
            what=f"catch-up over {total:,} rows, against a bare paged SELECT of the same columns; medians of 7",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(bare):,.0f}/s",
            ratio=f"{median(ours) / median(bare):.2f}",
            floor="0.9",
            goal="1.2",
        )
    ]


async def streams(url: str) -> list[Row]:
    await prepare(url)
    count, rows = 1000, 1000
    async with PostgresBackend(url) as backend:
        opened = [await backend.subscribe_completions() for _ in range(count)]

        reading = [asyncio.ensure_future(consume(stream, rows)) for stream in opened]
        await asyncio.sleep(0)
        process = producer.start("insert", url, rows, 1000)
        started = producer.go(process)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            row = await (
                await conn.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion'")
            ).fetchone()
        await asyncio.wait_for(asyncio.gather(*reading), 120)
        took = time.perf_counter() - started
        producer.finish(process)
    connections = row[0] if row else 0
    return [
        Row(
            what=f"{count:,} streams on one backend ({connections} connections), {rows:,} rows in one transaction: deliveries, the insert included",
            ours=f"{count * rows / took:,.0f}/s",
            floor="2,000,000/s",
            goal="5,000,000/s",
        )
    ]


async def idle(url: str) -> list[Row]:
    await prepare(url)
    rows: list[Row] = []
    with embedded.valkey() as server:
        for name, backend in (("postgres", PostgresBackend(url)), ("valkey", ValkeyBackend(server.url))):
            async with backend:
                opened = [await backend.subscribe_completions() for _ in range(100)]
                await asyncio.sleep(1)
                before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                await asyncio.sleep(10)
                after, took = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
                used = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
                for stream in opened:
                    await stream.aclose()
            rows.append(
                Row(
                    what=f"{name}: idle, 100 streams, default options, this process over 10 s",
                    ours=f"{100 * used / took:.2f} % of a core",
                    floor="0.5 %",
                    goal="0.2 %",
                )
            )
    return rows


__all__ = ["burst", "catchup", "idle", "prepare", "streams"]
