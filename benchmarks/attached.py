"""What an attached table of jobs costs, and how soon it tells: through procrastinate's own functions and tables."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

import ffcompletion as ffc
from benchmarks.table import Row
from ffcompletion.attaching import attach, detach, preset
from ffcompletion.backends.postgres import PostgresBackend

NAME = "procrastinate"
WORKERS = 10
# Small enough that both sides meet the same machine.
PORTIONS = 5


async def run(url: str, *, jobs: int = 10_000, recorded: int = 1_000_000, waits: int = 300) -> list[Row]:
    """Finishing with and without the trigger, by turns; commit to wait; recording, and the longest that a writer waited."""
    with App(connector=SyncPsycopgConnector(conninfo=url)).open() as app:
        app.schema_manager.apply_schema()
    without: list[float] = []
    with_trigger: list[float] = []
    for _ in range(3 * PORTIONS):
        without.append(await _finish(url, jobs // PORTIONS))
        attach(url, preset(NAME), record=False)
        with_trigger.append(await _finish(url, jobs // PORTIONS))
        detach(url, NAME)
    ratio = statistics.median(mine / bare for mine, bare in zip(with_trigger, without, strict=True))
    plain, attached = (statistics.median(took) * PORTIONS for took in (without, with_trigger))
    latency = await _latency(url, waits)
    seconds, longest = await asyncio.to_thread(_recording, url, recorded)
    p50 = statistics.median(latency) * 1000
    return [
        Row(
            what=f"{jobs:,} jobs by {WORKERS} workers of procrastinate, attached against not; medians of {3 * PORTIONS} portions",
            ours=f"{attached:.2f} s",
            bare=f"{plain:.2f} s",
            ratio=f"{ratio:.2f}",
            floor="1.15",
            goal="1.05",
        ),
        Row(what="commit to wait_for_completion returning, p50", ours=f"{p50:.2f} ms", floor="3 ms"),
        Row(what=f"recording {recorded:,} finished jobs", ours=f"{seconds:.1f} s", floor="60 s"),
        Row(what="meanwhile, the longest that another writer waited", ours=f"{longest * 1000:.0f} ms", floor="1 s"),
    ]


async def _finish(url: str, jobs: int) -> float:
    """Seconds that ten workers need for so many jobs that do nothing."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("TRUNCATE procrastinate_jobs CASCADE")
    app = App(connector=PsycopgConnector(conninfo=url, max_size=2 * WORKERS))

    @app.task(name="nothing")
    async def nothing() -> None:
        pass

    async with app.open_async():
        await nothing.batch_defer_async(*({} for _ in range(jobs)))
        with psycopg.connect(url, autocommit=True) as conn:
            # How the next job is looked for must not depend on whether somebody has analyzed the table by now.
            conn.execute("VACUUM ANALYZE procrastinate_jobs")
        started = time.perf_counter()
        await asyncio.gather(
            *(
                app.run_worker_async(wait=False, concurrency=1, install_signal_handlers=False, listen_notify=False)
                for _ in range(WORKERS)
            )
        )
        return time.perf_counter() - started


async def _latency(url: str, waits: int) -> list[float]:
    attach(url, preset(NAME), record=False)
    found: list[float] = []
    async with PostgresBackend(url) as backend, await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        for _ in range(waits + 20):
            cursor = await conn.execute(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('q', 't', 'doing') RETURNING id"
            )
            row = await cursor.fetchone()
            assert row is not None
            waiting = asyncio.create_task(ffc.wait_for_completion(backend, ffc.attached_id(NAME, row[0]), timeout=30))
            # Long enough that it listens.
            await asyncio.sleep(0.02)
            await conn.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)", (row[0],))
            committed = time.perf_counter()
            await waiting
            found.append(time.perf_counter() - committed)
    detach(url, NAME)
    return found[20:]


def _recording(url: str, count: int) -> tuple[float, float]:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("TRUNCATE procrastinate_jobs CASCADE")
        conn.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
        conn.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status)"
            " SELECT 'q', 't', 'succeeded' FROM generate_series(1, %s)",
            (count,),
        )
        conn.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        conn.execute("ANALYZE procrastinate_jobs")
    ended = threading.Event()
    longest = 0.0

    def finish_others() -> None:
        nonlocal longest
        with psycopg.connect(url, autocommit=True) as conn:
            while not ended.is_set():
                began = time.perf_counter()
                conn.execute(
                    "WITH made AS (INSERT INTO procrastinate_jobs (queue_name, task_name, status)"
                    " VALUES ('q', 't', 'doing') RETURNING id) SELECT id FROM made"
                )
                longest = max(longest, time.perf_counter() - began)
                time.sleep(0.005)

    writer = threading.Thread(target=finish_others)
    writer.start()
    try:
        seconds = _timed(lambda: attach(url, preset(NAME)))
    finally:
        ended.set()
        writer.join()
    detach(url, NAME)
    return seconds, longest


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
