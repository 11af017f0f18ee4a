"""The examples of attached tables, run as their docstrings say, with the libraries' own workers."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from benchmarks import attached as benchmark
from ffcompletion.attaching import attach, preset
from tests import ROOT
from tests.adapters.attaching.test_presets import run, url_of
from tests.worlds.attaching import database
from tests.worlds.forking import Interpreter


@pytest.fixture(scope="module")
def server(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, "attach_examples") as url:
        yield url


def example(name: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*Interpreter(), "-W", "error", "-m", f"examples.{name}", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_pool_over_a_table_of_ones_own(server: str) -> None:
    """Two tenants, four workers; each tenant sees its own."""
    with example("jobs_pool", server) as process:
        out, err = process.communicate(timeout=60)
    assert out.split() == ["acme", "20", "globex", "20"], err


def test_workflows_are_awaited_from_another_process(server: str) -> None:
    """One that has finished by then, in a process that does not import DBOS."""
    run("dbos", server, "schema")
    attach(server, preset("dbos"))
    with example("jobs_dbos", url_of("dbos", server), "nightly-1") as process:
        run("dbos", server, "story")
        out, err = process.communicate(timeout=60)
    assert out.split() == ["nightly-1", "success"], err


async def test_an_endpoint_answers_when_the_job_has_finished(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked before it has; the worker runs meanwhile."""
    monkeypatch.setenv("DATABASE_URL", server)
    await asyncio.to_thread(run, "procrastinate", server, "schema")
    attach(server, preset("procrastinate"))
    module: Any = importlib.import_module("examples.jobs_fastapi")
    app, jobs = module.app, module.jobs
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    serving = asyncio.create_task(web.serve())
    while not web.started:
        await asyncio.sleep(0.02)
    port = web.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        job = (await client.post("/sums", params={"a": 1, "b": 2})).json()["job"]
        assert (await client.get(f"/jobs/{job}", params={"timeout": 2.0})).status_code == 504
        assert (await client.get("/jobs/999999")).status_code == 404
        asking = asyncio.create_task(client.get(f"/jobs/{job}", params={"timeout": 50}))
        await asyncio.sleep(0)
        await jobs.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)
        assert (await asking).json() == {"outcome": "success"}
    web.should_exit = True
    await serving


async def test_the_benchmark_runs(server: str) -> None:
    """At a small size: its rows are there, and what it attached is detached."""
    with database(server, "attach_benchmark") as url:
        found = await benchmark.run(url, jobs=20, recorded=6_000, waits=3)
    assert [row.floor for row in found] == ["1.15", "3 ms", "60 s", "1 s"]
