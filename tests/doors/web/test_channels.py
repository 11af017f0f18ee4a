"""Many clients of one stream, and its end."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack

import httpx

from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import completions_app
from tests.doors.web.serving import ID, anybody, comes_true, events, program, serving, stopped
from tests.worlds import PostgresWorld, done, eventually
from tests.worlds.servers import free_ports


async def test_a_thousand_clients_share_one_stream() -> None:
    """One stream of the backend, however many look; and as many as `max_clients`, no more."""
    async with MemoryBackend() as backend:
        app = completions_app(backend, authorize=anybody, max_clients=1_000)
        async with serving(app, backlog=2_048) as (client, server):
            port = server.servers[0].sockets[0].getsockname()[1]

            async def one() -> asyncio.StreamReader:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writers.append(writer)
                writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"retry: 1000")
                return reader

            writers: list[asyncio.StreamWriter] = []
            readers: list[asyncio.StreamReader] = []
            for _ in range(10):
                readers += await asyncio.gather(*(one() for _ in range(100)))
            assert backend.stats().streams == 1
            assert app.clients == 1_000
            assert (await client.get("/events")).status_code == 503
            backend.emit(ID % 1, "success")
            await asyncio.gather(*(reader.readuntil((ID % 1).encode()) for reader in readers))
            server.should_exit = True
            before = time.monotonic()
            await asyncio.gather(*(reader.read() for reader in readers))
            # Told within a tick; a thousand connections take their time on a loaded machine.
            assert time.monotonic() - before < 20
            for writer in writers:
                writer.close()
                await writer.wait_closed()
        await eventually(lambda: comes_true(lambda: backend.stats().streams == 0))


async def test_stop_ends_everything_where_the_server_says_nothing() -> None:
    """What lasts ends, what is new is refused."""
    async with MemoryBackend() as backend:
        backend.submit(ID % 1)
        app = completions_app(backend, authorize=anybody)
        async with serving(app) as (client, _):
            waiting = asyncio.ensure_future(client.get(f"/executions/{ID % 1}"))
            async with events(client) as stream:
                await stream.begun()
                await eventually(lambda: comes_true(lambda: app.clients == 2))
                app.stop()
                app.stop()
                assert await stream.ids(1) == []
            assert (await waiting).status_code == 503
            assert (await client.get("/events")).headers["retry-after"] == "1"


async def test_a_service_that_is_looked_at_is_gone_within_a_second(postgres: PostgresWorld) -> None:
    """With clients connected and requests waiting; a machine that takes longer with nobody there has as much longer."""
    (port,) = free_ports(1)
    unfinished = done()
    await postgres.begins(unfinished)
    async with program(postgres.url, port) as process:
        alone, _ = await stopped(process, signal.SIGTERM)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=20, limits=httpx.Limits(max_connections=None)
    ) as client:
        async with program(postgres.url, port) as process, AsyncExitStack() as stack:
            everybody = {"X-Tenant": "*"}
            path = f"/c/executions/{unfinished.execution_id}"
            waiting = [asyncio.ensure_future(client.get(path, headers=everybody)) for _ in range(50)]
            for _ in range(50):
                await (await stack.enter_async_context(events(client, path="/c/events", **everybody))).begun()
            took, text = await stopped(process, signal.SIGTERM)
            assert {(await answer).status_code for answer in waiting} == {503}
    assert took < max(1.0, 4 * alone), f"{took:.2f} s, and {alone:.2f} s with nobody there"
    assert "ERROR" not in text
