"""What is made on a server by several at the same instant: whoever comes second finds it made."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import AsyncGenerator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach, attached, detach
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints
from ffcompletion.producers import install, uninstall
from tests.worlds import PostgresWorld, ValkeyWorld
from tests.worlds.forking import Interpreter

AT_ONCE = 5
JOBS = Definition(name="jobs", table="made.jobs", key="id", state="status", outcomes={"done": "success"})


@pytest.fixture
async def schema(postgres: PostgresWorld) -> AsyncGenerator[str]:
    """A connection string whose search_path is a new schema, and nothing else."""
    await postgres.sql("DROP SCHEMA IF EXISTS made CASCADE; CREATE SCHEMA made")
    yield make_conninfo(postgres.url, options="-c search_path=made")
    await postgres.sql("DROP SCHEMA made CASCADE")


async def test_producers_that_are_installed_at_once(schema: str) -> None:
    """Each says that they are ready; they are there once, and work. Removing them at once is as good."""
    for _ in range(4):
        told = await asyncio.gather(*(install(schema) for _ in range(AT_ONCE)))
        assert all("are ready" in line for line in told)
        async with PostgresBackend(schema) as backend, ffc.subscribe(backend) as stream:
            async with await psycopg.AsyncConnection.connect(schema) as conn:
                await conn.execute("SELECT ff_emit_completion(ff_new_execution_id(), 'success')")
            async with asyncio.timeout(30):
                assert (await anext(stream)).outcome == "success"
        told = await asyncio.gather(*(uninstall(schema) for _ in range(AT_ONCE)))
        assert sum("are gone" in line for line in told) == 1


async def test_jobs_that_are_attached_at_once(schema: str) -> None:
    """By several deployments: our tables, the triggers and the entry are there once."""
    with psycopg.connect(schema, autocommit=True) as conn:
        for _ in range(4):
            conn.execute("CREATE TABLE made.jobs (id bigint PRIMARY KEY, status text)")
            conn.execute("INSERT INTO made.jobs VALUES (1, 'done'), (2, 'queued')")
            failed: list[BaseException] = []
            barrier = threading.Barrier(AT_ONCE)

            def work(barrier: threading.Barrier = barrier, failed: list[BaseException] = failed) -> None:
                barrier.wait(10)
                try:
                    attach(schema, JOBS)
                except BaseException as exc:
                    failed.append(exc)

            threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join, 30)
            assert not failed
            (found,) = attached(schema)
            assert (found.working, found.jobs, found.finished) == (True, 2, 1)
            detach(schema, "jobs")
            conn.execute("DROP TABLE made.jobs")
            await uninstall(schema)


async def test_processes_that_start_at_once(schema: str) -> None:
    """Five programs on their first day: tables for positions and for completions."""
    program = (
        "import asyncio, sys; from ffcompletion.producers import install\n"
        "from ffcompletion.backends.postgres import PostgresCheckpoints\n"
        "async def main(url):\n"
        "    sys.stdin.readline()\n"
        "    async with PostgresCheckpoints(url) as store:\n"
        "        await asyncio.gather(store.load('x'), install(url))\n"
        "asyncio.run(main(sys.argv[1]))\n"
    )
    processes = [
        subprocess.Popen([*Interpreter(), "-c", program, schema], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(AT_ONCE)
    ]
    ended = await asyncio.gather(*(asyncio.to_thread(process.communicate, b"go\n", 60) for process in processes))
    assert [process.returncode for process in processes] == [0] * AT_ONCE, [errors for _, errors in ended]
    async with PostgresCheckpoints(schema) as store:
        assert await store.load("x") is None


async def test_the_library_that_is_loaded_at_once(valkey: ValkeyWorld) -> None:
    """The one that comes last replaces what is the same."""
    told = await asyncio.gather(*(install(valkey.url) for _ in range(AT_ONCE)))
    assert all("is ready" in line for line in told)
