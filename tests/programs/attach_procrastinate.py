"""procrastinate's own worker: ``schema``, ``story``, ``deleting``, ``hang``, ``recover`` or ``many N WORKERS``."""

from __future__ import annotations

import asyncio
import sys

from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from procrastinate.exceptions import JobAborted

app = App(connector=PsycopgConnector(conninfo=sys.argv[1]))


@app.task(name="succeed")
async def succeed() -> None:
    pass


@app.task(name="fail")
async def fail() -> None:
    raise ValueError("as it should")


@app.task(name="flaky", retry=RetryStrategy(max_attempts=3), pass_context=True)
async def flaky(context: JobContext) -> None:
    if not context.job.attempts:
        raise ValueError("the first time only")


@app.task(name="hang", pass_context=True)
async def hang(context: JobContext) -> None:
    print("hanging", flush=True)
    while not context.should_abort():
        await asyncio.sleep(0.05)
    raise JobAborted


async def story() -> None:
    """Each way that a job can go."""
    await succeed.defer_async()
    await fail.defer_async()
    await flaky.defer_async()
    cancelled, gone = await succeed.defer_async(), await succeed.defer_async()
    await app.job_manager.cancel_job_by_id_async(cancelled)
    await app.job_manager.cancel_job_by_id_async(gone, delete_job=True)
    aborted = await hang.defer_async()
    worker = asyncio.create_task(work(wait=True))
    while str((await app.job_manager.get_job_status_async(aborted)).value) != "doing":
        await asyncio.sleep(0.05)
    await app.job_manager.cancel_job_by_id_async(aborted, abort=True)
    while [job for job in await app.job_manager.list_jobs_async() if job.status in {"todo", "doing"}]:
        await asyncio.sleep(0.05)
    worker.cancel()
    await asyncio.wait({worker})


async def work(*, wait: bool = False, concurrency: int = 4, **options: str) -> None:
    await app.run_worker_async(
        wait=wait,
        concurrency=concurrency,
        install_signal_handlers=False,
        listen_notify=wait,
        fetch_job_polling_interval=0.1,
        delete_jobs=options.get("delete_jobs", "never"),
    )


async def recover() -> None:
    """What a worker that was killed left behind."""
    for job in await app.job_manager.get_stalled_jobs(nb_seconds=0):
        await app.connector.execute_query_async(
            "UPDATE procrastinate_jobs SET task_name = 'succeed' WHERE id = %(id)s", id=job.id
        )
        await app.job_manager.retry_job(job)
    await work()


async def main(command: str, *numbers: int) -> None:
    async with app.open_async():
        if command == "schema":
            await app.schema_manager.apply_schema_async()
        elif command == "story":
            await story()
        elif command == "deleting":
            await succeed.defer_async()
            await fail.defer_async()
            await work(delete_jobs="successful")
        elif command == "hang":
            await hang.defer_async()
            await work(wait=True)
        elif command == "recover":
            await recover()
        elif command == "many":
            jobs, workers = numbers
            await succeed.batch_defer_async(*({} for _ in range(jobs)))
            await asyncio.gather(*(work(concurrency=1) for _ in range(workers)))
        else:
            raise SystemExit(f"unknown: {command}")


asyncio.run(main(sys.argv[2], *map(int, sys.argv[3:])))
