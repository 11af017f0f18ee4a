"""A service under a real uvicorn, and a client of its events."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from starlette.requests import Request

from ffcompletion.web import CompletionsApp, Grant
from tests import ROOT, TESTS
from tests.worlds import eventually
from tests.worlds.forking import Interpreter


async def comes_true(what: Callable[[], bool]) -> bool:
    return what()


PROGRAM = TESTS / "programs" / "webservice.py"


@asynccontextmanager
async def program(url: str, port: int) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *Interpreter(), str(PROGRAM), url, str(port),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:

        def answers() -> bool:
            assert process.returncode is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await eventually(lambda: comes_true(answers), 20)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stopped(process: asyncio.subprocess.Process, sign: signal.Signals) -> tuple[float, str]:
    before = time.monotonic()
    process.send_signal(sign)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    return time.monotonic() - before, out.decode()


ID = "{fp:7}:550e8400-e29b-41d4-a716-44665544%04d"


async def anybody(_: Request) -> Grant | None:
    return Grant.everything()


@asynccontextmanager
async def serving(app: CompletionsApp, **options: Any) -> AsyncGenerator[tuple[httpx.AsyncClient, uvicorn.Server]]:
    """In this loop, on a free port; gone by itself at the end."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", **options))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, limits=limits) as client:
            yield client, server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


class Events:
    """The events of one answer."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.last_id: str | None = None
        self.comments = 0
        self._lines = answer.aiter_lines()

    async def __aiter__(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        event: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                event[name] = value
            else:
                self.last_id = event.get("id", self.last_id)
                if "data" in event:
                    yield event["event"], json.loads(event["data"])
                event = {}

    async def begun(self) -> None:
        """The subscription is live."""
        async for line in self._lines:
            if line == "retry: 1000":
                return

    async def ids(self, count: int) -> list[str]:
        found: list[str] = []
        async with asyncio.timeout(20):
            async for name, data in self:
                assert name == "completion", (name, data)
                found.append(data["execution_id"])
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def events(
    client: httpx.AsyncClient, query: str = "", last: str | None = None, path: str = "/events", **headers: str
) -> AsyncGenerator[Events]:
    given = {"Last-Event-ID": last, **headers} if last is not None else headers
    async with client.stream("GET", path + query, headers=given) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)
