"""pgqueuer's own worker: ``schema``, ``story``, ``hang`` or ``recover``."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import psycopg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import PsycopgDriver
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job
from pgqueuer.types import QueueExecutionMode


def made(driver: PsycopgDriver) -> PgQueuer:
    app = PgQueuer(driver)

    @app.entrypoint("succeed")
    async def succeed(job: Job) -> None:
        pass

    @app.entrypoint("fail")
    async def fail(job: Job) -> None:
        raise ValueError("as it should")

    @app.entrypoint("held", on_failure="hold")
    async def held(job: Job) -> None:
        raise ValueError("kept in the queue")

    @app.entrypoint("flaky")
    async def flaky(job: Job) -> None:
        if not job.attempts:
            raise RetryRequested(delay=timedelta(0), reason="the first time only")

    @app.entrypoint("hang")
    async def hang(job: Job) -> None:
        if len(sys.argv) > 2 and sys.argv[2] == "hang":
            print("hanging", flush=True)
            await asyncio.sleep(60)

    return app


async def waking(conn: psycopg.AsyncConnection, url: str) -> None:
    """Its driver waits for notifications for a second at a time, and no statement runs meanwhile: end that wait at once."""
    await conn.execute("LISTEN waking")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        while True:
            await other.execute("NOTIFY waking")
            await asyncio.sleep(0.02)


async def main(url: str, command: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        driver = PsycopgDriver(conn)
        queries = Queries(driver)
        if command == "schema":
            await queries.install()
            return
        app = made(driver)
        if command == "story":
            for name in ("succeed", "fail", "held", "flaky", "gone"):
                await queries.enqueue(name, None)
            (cancelled,) = await queries.enqueue("succeed", None)
            await queries.mark_job_as_cancelled([cancelled])
            await queries.clear_queue("gone")
        elif command == "hang":
            await queries.enqueue("hang", None)
        elif command == "recover":
            # Only a job whose last heartbeat is older than the time-out is taken from the dead.
            await asyncio.sleep(1.1)
        mode = QueueExecutionMode.continuous if command == "hang" else QueueExecutionMode.drain
        waker = asyncio.create_task(waking(conn, url))
        await app.run(mode=mode, dequeue_timeout=timedelta(seconds=0.1), heartbeat_timeout=timedelta(seconds=1))
        waker.cancel()
        await asyncio.wait({waker})


asyncio.run(main(*sys.argv[1:]))
