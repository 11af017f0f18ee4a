"""What one client is sent: events, ids to resume by, its own buffer."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import Grant, completions_app
from ffcompletion.web.outbox import Outbox
from tests.doors.web.serving import ID, anybody, comes_true, events, program, serving, stopped
from tests.doors.web.test_app import ENDS
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually, templates
from tests.worlds.servers import free_ports


async def test_events_arrive_and_resume_exactly_while_the_service_lives() -> None:
    """Every event has an id, keep-alives have none; coming back with the last one misses and repeats nothing."""
    async with MemoryBackend() as backend:
        async with serving(completions_app(backend, authorize=anybody, keepalive=0.05)) as (client, _):
            async with events(client) as one, events(client) as another:
                assert one.answer.headers["completions-resume"] == "yes"
                await one.begun()
                await another.begun()
                for number in range(5):
                    backend.emit(ID % number, "failed", flow_id=None)
                assert await one.ids(5) == [ID % number for number in range(5)]
                last = one.last_id
                assert last is not None
                await one.answer.aclose()
                for number in range(5, 9):
                    backend.emit(ID % number, "success")
                async with events(client, last=last) as again:
                    assert await again.ids(4) == [ID % number for number in range(5, 9)]
                await asyncio.sleep(0.15)
                backend.emit(ID % 9, "success")
                assert len(await another.ids(10)) == 10
                assert another.comments >= 1
                assert backend.stats().streams == 1
            await eventually(lambda: comes_true(lambda: backend.stats().streams == 0))


async def test_a_client_that_was_sent_nothing_yet_resumes_where_it_began() -> None:
    """The stream's own position is its first id."""
    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=anybody)) as (client, _):
        backend.emit(ID % 0, "success")
        async with events(client) as one:
            async with asyncio.timeout(30):
                async for line in one._lines:
                    if line.startswith("id: "):
                        break
        await eventually(lambda: comes_true(lambda: backend.stats().streams == 0))
        backend.emit(ID % 1, "success")
        async with events(client, last=line.removeprefix("id: ")) as again:
            assert await again.ids(1) == [ID % 1]


async def test_an_id_with_digits_without_end_resumes_by_its_position() -> None:
    """Python refuses to read them as a number, and the client had no answer."""
    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=anybody)) as (client, _):
        async with events(client) as one:
            backend.emit(ID % 0, "success")
            async with asyncio.timeout(30):
                async for line in one._lines:
                    if line.startswith("id: "):
                        break
            cursor, channel, _ = line.removeprefix("id: ").split(".")
            async with events(client, last=f"{cursor}.{channel}.{'9' * 5000}") as again:
                backend.emit(ID % 1, "success")
                assert ID % 1 in await again.ids(2 if line.endswith(".0") else 1)


@pytest.mark.parametrize("then", ["withdrawn", "narrowed", "raises", *ENDS])
async def test_a_grant_is_asked_for_again_while_a_stream_lasts(then: str) -> None:
    """A stream and a wait end when it is withdrawn."""
    changed = False

    async def authorize(_: Request) -> Grant | None:
        if changed and then == "raises":
            raise RuntimeError
        if changed and then in ENDS:
            raise ENDS[then]
        return (None if then == "withdrawn" else Grant.of("b")) if changed else Grant.of("a", "b")

    async with MemoryBackend() as backend:
        backend.submit(ID % 9, namespace="a")
        app = completions_app(backend, authorize=authorize, reauthorize=0.05)
        async with serving(app) as (client, _):
            waiting = asyncio.ensure_future(client.get(f"/executions/{ID % 9}"))
            async with events(client) as stream:
                await stream.begun()
                await asyncio.sleep(0.2)
                backend.emit(ID % 1, "success", namespace="a")
                assert await stream.ids(1) == [ID % 1]
                changed = True
                assert await stream.ids(1) == []
            assert (await waiting).status_code == 403


async def test_a_slow_client_costs_its_own_buffer_only() -> None:
    """It is cut off at its bound, the others get everything; coming back it misses nothing."""
    async with MemoryBackend(retention=10_000) as backend:
        async with serving(completions_app(backend, authorize=anybody, buffer_size=50)) as (client, server):
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
            writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"retry: 1000")
            # Of whatever class the loop has for it.
            transport: Any = writer.transport
            transport.pause_reading()
            # More than the kernel's own buffers hold.
            wanted, long = [ID % number for number in range(2_000)], "x" * 16_000
            async with events(client) as quick:
                await quick.begun()
                got: list[str] = []
                for start in range(0, len(wanted), 20):
                    for id_ in wanted[start : start + 20]:
                        backend.emit(id_, long)
                    got += await quick.ids(20)
                assert got == wanted
            transport.resume_reading()
            text = (await asyncio.wait_for(reader.read(), 10)).decode()
            ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
            had = [
                json.loads(line.removeprefix("data: "))["execution_id"]
                for line in text.splitlines()
                if line.startswith("data: ")
            ]
            assert 0 < len(had) < len(wanted)
            writer.close()
            await writer.wait_closed()
            async with events(client, last=ids[-1]) as again:
                assert had + await again.ids(len(wanted) - len(had)) == wanted


async def test_without_a_log_the_headers_say_so_and_a_slow_client_is_told(valkey: ValkeyWorld) -> None:
    """No ids at all, no resuming, and what a full buffer forgot is counted to whom it concerns."""
    async with valkey.backend() as backend:
        async with serving(completions_app(backend, authorize=anybody, namespaces=True)) as (client, _):
            async with events(client, "?status=1") as stream:
                assert stream.answer.headers["completions-resume"] == "no"
                await stream.begun()
                item = done(namespace="tenant-a")
                await valkey.announce(item)
                seen: dict[str, dict[str, Any]] = {}
                async with asyncio.timeout(10):
                    async for name, data in stream:
                        seen[name] = data
                        if name == "completion":
                            break
                assert seen["completion"]["execution_id"] == item.execution_id
                assert seen["completion"]["namespace"] == "tenant-a"
                assert seen["status"]["resumable"] is False
                assert seen["status"]["stats"]["streams"] == 1
                assert stream.last_id is None
            assert (await client.get("/events", headers={"Last-Event-ID": "02"})).status_code == 410
    outbox = Outbox(2, lossy=True)
    for frame in (b"1", b"2", b"3", b"4"):
        outbox.put(frame)
    assert outbox.take() == b'event: lost\ndata: {"count":2}\n\n34'
    assert not outbox.ended


async def test_through_a_restart_of_the_service_nothing_is_lost(postgres: PostgresWorld) -> None:
    """Stopped with clients connected and requests waiting: gone within a second, quietly; then resumed by cursor."""
    (port,) = free_ports(1)
    items = [done(namespace="globex" if n % 3 == 0 else "acme") for n in range(30)]
    mine = [item.execution_id for item in items if item.namespace == "acme"]
    unfinished = done(namespace="acme")
    await postgres.begins(unfinished)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        async with program(postgres.url, port) as process:
            waiting = [
                asyncio.ensure_future(
                    client.get(f"/c/executions/{unfinished.execution_id}", headers={"X-Tenant": "acme"})
                )
                for _ in range(20)
            ]
            async with events(client, path="/c/events", **{"X-Tenant": "acme"}) as stream:
                await stream.begun()
                await postgres.announce(*items[:15])
                got = await stream.ids(10)
                last = stream.last_id
                _, text = await stopped(process, signal.SIGTERM)
                assert process.returncode in (0, -signal.SIGTERM)
            # A quiet stop: no error, no traceback, no line for each request.
            assert "ERROR" not in text
            assert "Traceback" not in text
            assert [(await answer).status_code for answer in waiting] == [503] * 20
        assert got == mine[:10]
        await postgres.announce(*items[15:])
        async with program(postgres.url, port) as process:
            async with events(client, path="/c/events", last=last, **{"X-Tenant": "acme"}) as stream:
                await stream.begun()
                again: list[str] = []
                while not again or again[-1] != mine[-1]:
                    again += await stream.ids(1)
                # By cursor, a few of those before may be repeated; none of those after may be missing.
                assert [id_ for id_ in again if id_ not in got] == mine[10:]
                _, text = await stopped(process, signal.SIGINT)
                assert (
                    "Traceback"
                    not in text.replace("KeyboardInterrupt", "")[:0] + text.partition("KeyboardInterrupt")[0]
                )


async def test_through_a_restart_of_the_server_nothing_is_lost() -> None:
    """The answer stays open and goes on by itself; whoever was away meanwhile comes back and misses nothing either."""
    items = [done() for _ in range(3)]
    first, *others = [item.execution_id for item in items]
    with templates.postgres() as server:
        world = PostgresWorld(18, server.url)
        async with ffc.connect(server.url) as backend:
            async with serving(completions_app(backend, authorize=anybody)) as (client, _):
                async with events(client) as stream:
                    await stream.begun()
                    await world.announce(items[0])
                    assert await stream.ids(1) == [first]
                    last = stream.last_id
                    await asyncio.to_thread(server.stop)
                    await asyncio.to_thread(server.start)
                    await world.forget()
                    await world.announce(*items[1:])
                    assert await stream.ids(2) == others
                async with events(client, last=last) as again:
                    got: list[str] = []
                    while others[-1] not in got:
                        got += await again.ids(1)
                    # By cursor, what was before may be repeated.
                    assert [id_ for id_ in got if id_ != first] == others
        await world.close()
