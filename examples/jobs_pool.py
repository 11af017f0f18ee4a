"""A worker pool over a table of one's own with a column for the tenant, and each tenant's view of it.

python -m examples.jobs_pool postgresql://localhost/app
"""

from __future__ import annotations

import asyncio
import sys

import psycopg

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach

TABLE = """
CREATE TABLE IF NOT EXISTS render_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, status text NOT NULL DEFAULT 'queued', url text)
"""
JOBS = Definition(
    name="render",
    table="render_jobs",
    key="id",
    state="status",
    outcomes={"done": "success", "error": "failed"},
    namespace="tenant",
    result="url",
)
TAKE = """
UPDATE render_jobs SET status = 'running' WHERE id = (
    SELECT id FROM render_jobs WHERE status = 'queued' ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id
"""


async def worker(url: str) -> None:
    """Takes jobs until there are none; it knows nothing of who waits."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while row := await (await conn.execute(TAKE)).fetchone():
            await conn.execute(
                "UPDATE render_jobs SET status = 'done', url = %s WHERE id = %s", (f"/{row[0]}.png", row[0])
            )


async def watch(backend: ffc.Backend, tenant: str, ready: asyncio.Event, count: int) -> list[int]:
    """One tenant's ends, and nobody else's."""
    seen: list[int] = []
    async with ffc.subscribe(backend, ffc.ScannerFilter(tenant)) as stream:
        ready.set()
        async for done in stream:
            key = ffc.attached_key(done.execution_id, "render")
            if isinstance(key, int):
                seen.append(key)
            if len(seen) == count:
                break
    return sorted(seen)


async def main(url: str, jobs: int = 20) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn, ffc.connect(url) as backend:
        await conn.execute(TABLE)
        await asyncio.to_thread(attach, url, JOBS)
        ready = {tenant: asyncio.Event() for tenant in ("acme", "globex")}
        watching = [asyncio.create_task(watch(backend, tenant, event, jobs)) for tenant, event in ready.items()]
        await asyncio.gather(*(event.wait() for event in ready.values()))
        for tenant in ready:
            await conn.execute("INSERT INTO render_jobs (tenant) SELECT %s FROM generate_series(1, %s)", (tenant, jobs))
        await asyncio.gather(*(worker(url) for _ in range(4)))
        for tenant, keys in zip(ready, await asyncio.gather(*watching), strict=True):
            print(tenant, len(keys))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
