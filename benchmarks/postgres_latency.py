"""Postgres: from commit to yield in every state of the statistics, and what a wake, an idle stream and reconciling cost.

Each cell stands beside the bare loop of the same run: NOTIFY, and one fetch by the id that it names. A small setting:
``FFCOMPLETION_BENCH_ROUNDS=20 FFCOMPLETION_BENCH_ROWS=2000 FFCOMPLETION_BENCH_SECONDS=2``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

import ffcompletion as ffc
from benchmarks import producer
from benchmarks.table import Row, consume, median
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.producers import install

ROUNDS = int(os.environ.get("FFCOMPLETION_BENCH_ROUNDS", "300"))
ROWS = int(os.environ.get("FFCOMPLETION_BENCH_ROWS", "1000000"))
SECONDS = float(os.environ.get("FFCOMPLETION_BENCH_SECONDS", "30"))
BURST = min(ROWS, 50_000)
RUNS = 3
ENGINE_SQL = Path(__file__).parent.parent / "tests" / "data" / "engine.sql"
COLUMNS = "event_id, '{fp:' || partition_key || '}:' || execution_id, outcome, occurred_at_ms, flow_id::text"
BY_ID = f"SELECT {COLUMNS} FROM ff_completion_event WHERE event_id = %s"
FILTERS: dict[str, ffc.ScannerFilter | None] = {
    "unfiltered": None,
    "by namespace": ffc.ScannerFilter("a"),
    "by namespace and tag": ffc.ScannerFilter("a", ("k", "v")),
}
BY_HAND = "by hand"
TICK = os.sysconf("SC_CLK_TCK")
Connection = psycopg.AsyncConnection[Any]


@asynccontextmanager
async def database(url: str, kind: str) -> AsyncGenerator[str]:
    """A new one, with the engine's tables as the wire has them, or our own producer's; nobody ever analyzes them."""
    name = f"bench_{uuid.uuid4().hex}"
    admin: Connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await admin.execute(f"CREATE DATABASE {name}".encode())
    own = url.replace("/postgres?", f"/{name}?")
    async with await psycopg.AsyncConnection.connect(own, autocommit=True) as conn:
        if kind == "engine":
            await conn.execute(ENGINE_SQL.read_bytes())
        else:
            await install(own)
        await conn.execute(
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT oid::regclass AS t FROM pg_class WHERE relkind = 'r'"
            " AND (relname LIKE 'ff\\_completion\\_event%' OR relname LIKE 'ff\\_exec\\_core%') LOOP"
            " EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', r.t); END LOOP; END $$"
        )
    try:
        yield own
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        await admin.close()


async def analyze(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("VACUUM ANALYZE ff_completion_event")
        await conn.execute("VACUUM ANALYZE ff_exec_core")


async def fill(url: str, count: int) -> None:
    """Finished executions with their records."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("SET session_replication_role = replica")
        now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 600000"
        await conn.execute(
            "WITH n AS MATERIALIZED (SELECT n, gen_random_uuid() AS id FROM generate_series(1, %s) n), c AS ("
            "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, public_state, created_at_ms,"
            f" terminal_at_ms, raw_fields) SELECT n %% 256, id, 'default', 'terminal', 'completed', 0, {now},"
            ' \'{"namespace": "b", "tags": {"k": "w"}}\' FROM n)'
            " INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            f" SELECT n %% 256, id, 'success', {now} FROM n".encode(),
            (count,),
        )
    await analyze(url)


async def finish_one(writer: Connection, number: int) -> float:
    """An execution finishes, its namespace in its record alone; when its row was committed."""
    partition, bare = number % 256, str(uuid.uuid4())
    await writer.execute(
        "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, public_state, created_at_ms,"
        " terminal_at_ms, raw_fields) VALUES (%s, %s, 'default', 'terminal', 'completed', 0, 1, %s)",
        (partition, bare, json.dumps({"namespace": "a", "tags": {"k": "v"}})),
    )
    await writer.execute(
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
        " VALUES (%s, %s, 'success', 1)",
        (partition, bare),
    )
    return time.perf_counter()


async def ours(url: str, wanted: ffc.ScannerFilter | None) -> tuple[float, float]:
    """The median from commit to yield, and what a wake costs the server's processes that serve us; in ms."""
    writer = await psycopg.AsyncConnection.connect(url, autocommit=True)
    took: list[float] = []
    before = 0.0
    async with PostgresBackend(url) as backend, ffc.subscribe(backend, wanted) as stream:
        for number in range(ROUNDS + 20):
            if number == 20:
                before = await cpu(url)
            waiting = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            started = await finish_one(writer, number)
            await waiting
            took.append(time.perf_counter() - started)
        used = await cpu(url) - before
    await writer.close()
    return median(took[20:]) * 1e3, used / ROUNDS * 1e3


async def bare(url: str) -> tuple[float, float]:
    """The same by hand: one fetch for each notification, by its id, prepared, planned once."""
    writer = await psycopg.AsyncConnection.connect(url, autocommit=True)
    listener = await psycopg.AsyncConnection.connect(url, autocommit=True, application_name=BY_HAND)
    await listener.execute("LISTEN ff_completion")
    reader = await psycopg.AsyncConnection.connect(url, autocommit=True, application_name=BY_HAND)
    await reader.execute("SET plan_cache_mode = force_generic_plan")
    got: asyncio.Queue[float] = asyncio.Queue()

    async def listen() -> None:
        async for note in listener.notifies():
            async with reader.cursor(binary=True) as cursor:
                await cursor.execute(BY_ID, (int(note.payload),), prepare=True)
                await cursor.fetchall()
            got.put_nowait(time.perf_counter())

    listening = asyncio.ensure_future(listen())
    took: list[float] = []
    before = 0.0
    for number in range(ROUNDS + 20):
        if number == 20:
            before = await cpu(url, BY_HAND)
        await asyncio.sleep(0)
        started = await finish_one(writer, number)
        took.append(await got.get() - started)
    used = await cpu(url, BY_HAND) - before
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    for conn in (writer, listener, reader):
        await conn.close()
    return median(took[20:]) * 1e3, used / ROUNDS * 1e3


async def cpu(url: str, application: str = "ffcompletion") -> float:
    """Seconds, user and system, that the server's processes of an application's sessions have used."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        rows = await (
            await conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
                (application,),
            )
        ).fetchall()
    return sum(sum(_stat(pid)[11:13]) for (pid,) in rows) / TICK


def _stat(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return [0] * 15
    return [0, *(int(field) for field in text.rpartition(")")[2].split()[1:15])]


async def latency(url: str) -> list[Row]:
    rows: list[Row] = []
    for kind in ("engine", "own"):
        async with database(url, kind) as own:
            for state in ("never analyzed", "analyzed", f"{ROWS:,} rows"):
                if state == "analyzed":
                    await analyze(own)
                elif state != "never analyzed":
                    await fill(own, ROWS)
                for name, wanted in FILTERS.items():
                    cells = [(*await ours(own, wanted), *await bare(own)) for _ in range(RUNS)]
                    mine, used, by_hand, its = (median([cell[at] for cell in cells]) for at in range(4))
                    ratios = ("2×", "1.3×") if wanted is None else ("3×", "2×")
                    absolute = ("1 ms", "0.6 ms") if wanted is None else ("1.5 ms", "0.8 ms")
                    floor, goal = ratios if kind == "engine" else absolute
                    rows.append(
                        Row(
                            what=f"{kind} tables, {state}, {name}: commit to yield, p50 of {ROUNDS}, median of {RUNS};"
                            f" CPU of our server processes {used:.2f} ms a wake, of the bare loop's {its:.2f}",
                            ours=f"{mine:.2f} ms",
                            bare=f"{by_hand:.2f} ms",
                            ratio=f"{mine / by_hand:.2f}×",
                            floor=floor,
                            goal=goal,
                        )
                    )
    return rows


async def server_cost(url: str) -> list[Row]:
    """The server's CPU: eight readers of ten events a second, an idle one, and reconciling a million records."""
    rows: list[Row] = []
    async with database(url, "own") as own:
        readers = [PostgresBackend(own) for _ in range(8)]
        streams = [await reader.subscribe_completions_filtered(ffc.ScannerFilter("a")) for reader in readers]
        reading = [asyncio.ensure_future(consume(stream, 1 << 40)) for stream in streams]
        writer = await psycopg.AsyncConnection.connect(own, autocommit=True)
        before, events = await cpu(own), round(SECONDS * 10)
        for number in range(events):
            await finish_one(writer, number)
            await asyncio.sleep(0.1)
        used = await cpu(own) - before
        await writer.close()
        await _stop(reading)
        for reader in readers:
            await reader.aclose()
        rows.append(
            Row(
                what="own tables, 8 readers, 10 events/s, filtered: the server's CPU for each event and reader",
                ours=f"{used / events / 8 * 1e3:.2f} ms",
                floor="1 ms",
                goal="0.2 ms",
            )
        )
    async with database(url, "engine") as own:
        rows.append(await _idle(own, "engine's tables, idle, one stream, default options", "0.2 %", "0.05 %"))
        await fill(own, ROWS)
        rows.append(
            await _idle(
                own, f"reconciling every 15 s with {ROWS:,} records, nothing ends (idle included)", "1 %", "0.2 %"
            )
        )
    return rows


async def _idle(url: str, what: str, floor: str, goal: str) -> Row:
    async with PostgresBackend(url) as backend, ffc.subscribe(backend):
        # The first looks read everything, and are planned.
        await asyncio.sleep(min(65.0, 2 * SECONDS))
        before, started = await cpu(url), time.perf_counter()
        await asyncio.sleep(SECONDS)
        used = (await cpu(url) - before) / (time.perf_counter() - started)
    return Row(what=f"{what}: our server processes, of a core", ours=f"{used * 100:.2f} %", floor=floor, goal=goal)


async def _stop(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def filtered_burst(url: str) -> list[Row]:
    """The same burst for an unfiltered stream, a filtered one, and a hundred of ten filters."""
    async with database(url, "engine") as own:
        async with await psycopg.AsyncConnection.connect(own) as conn, conn.cursor() as cursor:
            text = json.dumps({"namespace": "a", "tags": {"k": "v"}})
            copy = "COPY ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, raw_fields) FROM STDIN"
            async with cursor.copy(copy) as writing:
                for n in range(BURST):
                    await writing.write_row((n % 256, str(uuid.UUID(int=n + (1 << 100))), "default", "active", text))
        wanted = ffc.ScannerFilter("a", ("k", "v"))
        plain, filtered, many = [], [], []
        for _ in range(RUNS):
            plain.append(await _burst(own, [None]))
            filtered.append(await _burst(own, [wanted]))
            # Ten filters, each of which admits everything here, and ten streams of each.
            tags = [ffc.ScannerFilter("a", ("k", "v")) if n else ffc.ScannerFilter("a") for n in range(2)]
            others = [ffc.ScannerFilter("a", (f"k{n}", "v")) for n in range(8)]
            many.append(await _burst(own, [*tags * 10, *others * 10]))
    mine, base, crowd = median(filtered), median(plain), median(many)
    what = f"burst of {BURST:,} rows in transactions of 100, insert to yield"
    return [
        Row(
            what=f"{what}, filtered by namespace and tag, columns NULL, against unfiltered; medians of {RUNS}",
            ours=f"{mine:,.0f}/s",
            bare=f"{base:,.0f}/s",
            ratio=f"{mine / base:.2f}",
            floor="0.5",
            goal="0.8",
        ),
        Row(what=f"{what}, 100 streams of 10 filters, against the same", ours=f"{crowd:,.0f}/s", bare=f"{base:,.0f}/s",
            ratio=f"{crowd / base:.2f}"),
    ]  # fmt: skip


async def _burst(url: str, filters: list[ffc.ScannerFilter | None]) -> float:
    async with PostgresBackend(url, buffer_size=BURST) as backend:
        streams = [
            await (backend.subscribe_completions() if one is None else backend.subscribe_completions_filtered(one))
            for one in filters
        ]
        # Those whose tag nobody has get nothing, and wait.
        busy = [
            s for s, one in zip(streams, filters, strict=True) if one is None or one.instance_tag in (None, ("k", "v"))
        ]
        process = producer.start("insert", url, BURST, 100)
        reading = [asyncio.ensure_future(consume(stream, BURST)) for stream in busy]
        await asyncio.sleep(0)
        started = producer.go(process)
        await asyncio.gather(*reading)
        took = time.perf_counter() - started
        producer.finish(process)
    return BURST / took


__all__ = ["filtered_burst", "latency", "server_cost"]
