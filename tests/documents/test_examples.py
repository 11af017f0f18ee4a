"""The examples do what they say: each runs, is hurt, and comes to the right end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from ffcompletion import ExecutionId
from tests import ROOT
from tests.worlds import Done, PostgresWorld, done, eventually
from tests.worlds.forking import Interpreter

EXAMPLES = ROOT / "examples"


@asynccontextmanager
async def running(*words: str, **environment: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A program, killed at the end if it has not ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *Interpreter(), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, limit=1 << 20,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_dag_promoter(postgres: PostgresWorld) -> None:
    """Layers of a graph, finished as they are released, while the promoter is killed: each is released once."""
    await postgres.sql("DROP TABLE IF EXISTS dag_edge, dag_node, ffcompletion_checkpoint")
    async with running(str(EXAMPLES / "dag_promoter.py"), postgres.url):
        await eventually(lambda: _exists(postgres, "dag_edge"))
    layers = [[done() for _ in range(3)] for _ in range(5)]
    doomed = [done(), done()]
    nodes = [item.execution_id for layer in layers for item in layer] + [item.execution_id for item in doomed]
    for id_ in nodes:
        await postgres.sql("INSERT INTO dag_node (execution_id) VALUES (%s)", (id_,))
    edges = [(up, down) for above, below in itertools.pairwise(layers) for up in above for down in below]
    edges += [(layers[0][0], doomed[0]), (doomed[0], doomed[1])]
    for up, down in edges:
        await postgres.sql("INSERT INTO dag_edge VALUES (%s, %s)", (up.execution_id, down.execution_id))
    by_id = {item.execution_id: item for layer in layers for item in layer}
    await postgres.sql("UPDATE dag_node SET state = 'ready' WHERE execution_id = ANY(%s)", ([*by_id][:3],))
    finished: set[str] = set()

    async def engine() -> None:
        """Runs what is ready; a completion may be announced twice."""
        while len(finished) < len(by_id):
            for (id_,) in await postgres.sql("SELECT execution_id FROM dag_node WHERE state = 'ready'"):
                if id_ in by_id and id_ not in finished:
                    finished.add(id_)
                    await postgres.announce(by_id[id_], by_id[id_])
            await asyncio.sleep(0.02)

    dice = random.Random(1)
    engine_task = asyncio.ensure_future(engine())
    try:
        for _ in range(4):
            async with running(str(EXAMPLES / "dag_promoter.py"), postgres.url):
                await asyncio.sleep(0.5 + dice.random() / 2)
        async with running(str(EXAMPLES / "dag_promoter.py"), postgres.url):
            await asyncio.wait_for(engine_task, 30)
            await eventually(lambda: _all_done(postgres, len(by_id)), 20)
            await postgres.announce(Done(execution_id=doomed[0].execution_id, outcome="failed"))
            await eventually(lambda: _state(postgres, doomed[1], "unreachable"))
    finally:
        engine_task.cancel()
    rows = await postgres.sql("SELECT execution_id, released FROM dag_node WHERE execution_id = ANY(%s)", ([*by_id],))
    assert {released for id_, released in rows if id_ in [*by_id][3:]} == {1}


async def _exists(postgres: PostgresWorld, table: str) -> bool:
    return (await postgres.sql("SELECT to_regclass(%s) IS NOT NULL", (table,))) == [(True,)]


async def _all_done(postgres: PostgresWorld, count: int) -> bool:
    return (await postgres.sql("SELECT count(*) FROM dag_node WHERE state = 'done'")) == [(count,)]


async def _state(postgres: PostgresWorld, item: Done, state: str) -> bool:
    return (await postgres.sql("SELECT state FROM dag_node WHERE execution_id = %s", (item.execution_id,))) == [
        (state,)
    ]


async def test_the_worker_pool(postgres: PostgresWorld, tmp_path: Path) -> None:
    """Two workers share a tenant: everything, each thing in one share; stopped and started, nothing is missing."""
    seen: list[dict[str, int]] = [{}, {}]

    async def worker(number: int) -> None:
        async with running(
            str(EXAMPLES / "worker_pool.py"), postgres.url, "acme",
            "--worker", str(number), "--of", "2", "--state", str(tmp_path),
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                async for line in process.stdout:
                    id_ = line.decode().split()[0]
                    seen[number][id_] = seen[number].get(id_, 0) + 1
            except asyncio.CancelledError:
                process.send_signal(signal.SIGTERM)
                out, _ = await asyncio.wait_for(process.communicate(), 10)
                for line in out.splitlines():
                    id_ = line.decode().split()[0]
                    seen[number][id_] = seen[number].get(id_, 0) + 1
                assert process.returncode == 0

    items: list[Done] = []
    for _ in range(2):
        workers = [asyncio.ensure_future(worker(number)) for number in (0, 1)]
        fresh = [done(namespace="acme" if n % 4 else "globex") for n in range(60)]
        items += fresh
        await postgres.announce(*fresh)
        mine = {item.execution_id for item in items if item.namespace == "acme"}
        await eventually(lambda mine=mine: {*seen[0], *seen[1]} == mine, 60)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=False)
    assert not {*seen[0]} & {*seen[1]}
    assert all(ExecutionId(id_).partition % 2 == number for number in (0, 1) for id_ in seen[number])
    # A clean stop stores the position: what is repeated is what Postgres repeats by its cursor, at most the last batch.
    assert sum(times - 1 for share in seen for times in share.values()) <= 20


@asynccontextmanager
async def service(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "fastapi_service:app"]
    async with running(*words, COMPLETIONS_URL=url) as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

            async def answers() -> bool:
                assert process.returncode is None
                try:
                    return (await client.get("/openapi.json")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, 60)
            yield client


async def _get(client: httpx.AsyncClient, id_: str, timeout: float = 10) -> tuple[int, Any]:
    answer = await client.get(f"/executions/{id_}", params={"timeout": timeout})
    return answer.status_code, answer.json()


async def test_the_service_answers_when_it_has_finished(postgres: PostgresWorld) -> None:
    """Before, later, never, unknown, malformed; a hundred requests at once are one subscription."""
    items = [done(result=b"fine") for _ in range(100)]
    async with service(postgres.url) as client:
        for item in items:
            await postgres.begins(item)
        assert (await _get(client, items[0].execution_id, 0.3))[0] == 408
        assert (await _get(client, done().execution_id))[0] == 404
        assert (await _get(client, "nonsense"))[0] == 422
        asking = [asyncio.ensure_future(_get(client, item.execution_id)) for item in items]
        await asyncio.sleep(0.5)
        assert await postgres.connections() <= 6
        for item in items:
            await postgres.ends(item)
        for item, (status, body) in zip(items, await asyncio.gather(*asking), strict=True):
            assert (status, body) == (
                200,
                {"execution_id": item.execution_id, "outcome": "success", "result": "fine"},
            )


async def _events(client: httpx.AsyncClient, count: int, begun: asyncio.Event, last: str | None = None) -> list[Any]:
    headers = {} if last is None else {"Last-Event-ID": last}
    found: list[Any] = []
    async with asyncio.timeout(20), client.stream("GET", "/tenants/acme/completions", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "retry":
                begun.set()
            elif name:
                event[name] = value
            elif "data" in event:
                found.append((event["id"], json.loads(event["data"])["execution_id"]))
                event = {}
                if len(found) == count:
                    break
    return found


async def test_the_service_streams_and_resumes(postgres: PostgresWorld) -> None:
    """Live; then from the last event's id, with what happened in between; another tenant's never."""
    first, missed = [[done(namespace="globex" if n % 3 == 0 else "acme") for n in range(12)] for _ in range(2)]
    async with service(postgres.url) as client:
        begun = asyncio.Event()
        reading = asyncio.ensure_future(_events(client, 8, begun))
        await asyncio.wait_for(begun.wait(), 10)
        await postgres.announce(*first)
        got = await reading
        assert [id_ for _, id_ in got] == [item.execution_id for item in first if item.namespace == "acme"]
        await postgres.announce(*missed)
        wanted = [item.execution_id for item in missed if item.namespace == "acme"]
        again = [id_ for _, id_ in await _events(client, 8, asyncio.Event(), got[-1][0])]
        # A few of those before may be repeated; none of those after may be missing.
        repeated = again.index(wanted[0])
        assert again[repeated:] == wanted[: 8 - repeated]
        await eventually(lambda: _streams_closed(postgres), 10)
        bad = await client.get("/tenants/acme/completions", headers={"Last-Event-ID": "xyz"})
        assert (bad.status_code, re.search("cursor", bad.text) is not None) == (422, True)


async def _streams_closed(postgres: PostgresWorld) -> bool:
    """A browser that goes away leaves no LISTEN behind."""
    rows = await postgres.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion' AND query LIKE 'LISTEN%'"
    )
    return rows == [(0,)]
