"""Completions over HTTP, under a real uvicorn: who sees what, coming back, slow clients, many clients, stopping."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.web import CompletionsApp, Grant, completions_app
from ffcompletion.web.outbox import Outbox
from tests import ROOT, TESTS
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually, templates
from tests.worlds.forking import Interpreter
from tests.worlds.servers import free_ports

PROGRAM = TESTS / "programs" / "webservice.py"
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
            await eventually(lambda: _is(lambda: backend.stats().streams == 0))


async def _is(what: Callable[[], bool]) -> bool:
    return what()


async def test_a_client_that_was_sent_nothing_yet_resumes_where_it_began() -> None:
    """The stream's own position is its first id."""
    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=anybody)) as (client, _):
        backend.emit(ID % 0, "success")
        async with events(client) as one:
            async with asyncio.timeout(30):
                async for line in one._lines:
                    if line.startswith("id: "):
                        break
        await eventually(lambda: _is(lambda: backend.stats().streams == 0))
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


async def test_what_is_granted_bounds_what_is_asked_for() -> None:
    """Own tenant, several, a tag; more than granted is refused; nothing of another's ever arrives."""
    grants = {
        "a": Grant.of("a"),
        "ab": Grant.of("a", "b"),
        "none": Grant.of(),
        "tag": Grant(instance_tag=("i", "1")),
        "all": Grant.everything(),
    }

    async def authorize(request: Request) -> Grant | None:
        return grants.get(request.headers.get("who", ""))

    cases = [
        ("a", "", {0}),
        ("a", "?namespace=a", {0}),
        ("ab", "", {0, 1, 3}),
        ("ab", "?namespace=b", {1, 3}),
        ("ab", "?tag=i%3D1", {1}),
        ("none", "", set[int]()),
        ("tag", "", {1, 2}),
        ("tag", "?namespace=b", {1}),
        ("all", "", {0, 1, 2, 3}),
    ]
    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(events(client, query, who=who)) for who, query, _ in cases]
            for stream in opened:
                await stream.begun()
            backend.emit(ID % 0, "success", namespace="a")
            backend.emit(ID % 1, "success", namespace="b", tags={"i": "1"})
            backend.emit(ID % 2, "success", namespace="c", tags={"i": "1"})
            backend.emit(ID % 3, "success", namespace="b")
            for (_, _, wanted), stream in zip(cases, opened, strict=True):
                assert not wanted or await stream.ids(len(wanted)) == [ID % number for number in sorted(wanted)]
        for who, query in [("a", "?namespace=b"), ("tag", "?tag=i%3D2"), ("nobody", ""), ("none", "?namespace=a")]:
            assert (await client.get("/events" + query, headers={"who": who})).status_code == 403, (who, query)
        for query in ["?tag=x", "?tag=%3D1"]:
            assert (await client.get("/events" + query, headers={"who": "all"})).status_code == 400
        assert (await client.head("/events", headers={"who": "a"})).headers["completions-resume"] == "yes"
        assert (await client.post("/events", headers={"who": "a"})).status_code == 405


ENDS = {"cancels": asyncio.CancelledError, "exits": SystemExit, "leaves": GeneratorExit}


@pytest.mark.parametrize("fault", ["raises", "wrong type", "wrong grant", "http", *ENDS])
async def test_authorize_fails_closed(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong in it, nothing is shown, and its text is not told."""

    async def authorize(_: Request) -> Any:
        if fault == "raises":
            raise RuntimeError("the password is hunter2")
        if fault == "http":
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})
        if fault in ENDS:
            raise ENDS[fault]
        return True if fault == "wrong type" else Grant(namespaces="tenant-a")  # type: ignore[arg-type]  # that is the point

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        backend.emit(ID % 1, "success")
        for path in ("/events", f"/executions/{ID % 1}"):
            answer = await client.get(path)
            assert answer.status_code == (401 if fault == "http" else 403)
            assert "hunter2" not in answer.text
            assert (answer.headers.get("www-authenticate") == "Bearer") is (fault == "http")
        assert backend.stats().streams == 0
    assert (fault == "http") is not ("authorize" in caplog.text)


def test_a_grant_holds_plain_text_alone() -> None:
    """In one string every tenant was found whose name is a part of it, "tenant" in "tenant-a"."""
    wrong: list[dict[str, Any]] = [
        *({"namespaces": names} for names in ("tenant-a", b"a", 3, {"a": 1}, frozenset({3}), ["\0"], [None])),
        *({"instance_tag": tag} for tag in ("kv", ["k", "v"], ("k",), ("", "v"), ("k", 3))),
    ]
    for fields in wrong:
        with pytest.raises(ffc.Validation):
            Grant(**fields)
    fields = {"namespaces": ["a", "a"]}
    assert Grant(**fields) == Grant.of("a")


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


async def test_an_execution_s_answer_comes_when_it_has_finished() -> None:
    """Now, later, not yet, not at all, not yours, no id; with its result where that is asked for."""

    async def authorize(request: Request) -> Grant | None:
        return Grant.of("a") if request.headers.get("who") == "a" else Grant.everything()

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        backend.emit(ID % 1, "failed", namespace="a", payload_bytes=b"broken")
        backend.submit(ID % 2, namespace="a")
        backend.submit(ID % 3, namespace="b")
        there = await client.get(f"/executions/{ID % 1}?result=1")
        assert there.status_code == 200
        assert (there.json()["outcome"], there.json()["result"], there.json()["finished"]) == ("failed", "broken", True)
        assert "result" not in (await client.get(f"/executions/{ID % 1}")).json()
        late = await client.get(f"/executions/{ID % 2}?timeout=0.05")
        assert (late.status_code, late.json()["finished"]) == (202, False)
        asking = asyncio.ensure_future(client.get(f"/executions/{ID % 2}", headers={"who": "a"}))
        await eventually(lambda: _is(lambda: backend.stats().streams == 1))
        backend.emit(ID % 2, "success")
        assert (await asking).json()["outcome"] == "success"
        for path, who, status in [
            (ID % 8, "", 404), (ID % 8, "a", 404), (ID % 3, "a", 404), ("nonsense", "", 400), (ID % 2 + "?timeout=x", "", 400),
            (ID % 2 + "?timeout=1e9", "", 400), (ID % 2 + "?timeout=nan", "", 400),
        ]:  # fmt: skip
            assert (await client.get(f"/executions/{path}", headers={"who": who})).status_code == status, path


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


async def test_status_tells_counters_only_to_whom_everything_is_granted() -> None:
    """A tenant learns the state, not how much others do."""

    async def authorize(_: Request) -> Grant | None:
        return Grant.of("a")

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        async with events(client, "?status=1") as stream:
            async for name, data in stream:
                assert (name, data) == ("status", {"resumable": True, "state": "live"})
                break


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
        await eventually(lambda: _is(lambda: backend.stats().streams == 0))


async def test_stop_ends_everything_where_the_server_says_nothing() -> None:
    """What lasts ends, what is new is refused."""
    async with MemoryBackend() as backend:
        backend.submit(ID % 1)
        app = completions_app(backend, authorize=anybody)
        async with serving(app) as (client, _):
            waiting = asyncio.ensure_future(client.get(f"/executions/{ID % 1}"))
            async with events(client) as stream:
                await stream.begun()
                await eventually(lambda: _is(lambda: app.clients == 2))
                app.stop()
                app.stop()
                assert await stream.ids(1) == []
            assert (await waiting).status_code == 503
            assert (await client.get("/events")).headers["retry-after"] == "1"


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

        await eventually(lambda: _is(answers), 20)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _stopped(process: asyncio.subprocess.Process, sign: signal.Signals) -> tuple[float, str]:
    before = time.monotonic()
    process.send_signal(sign)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    return time.monotonic() - before, out.decode()


async def test_a_service_that_is_looked_at_is_gone_within_a_second(postgres: PostgresWorld) -> None:
    """With clients connected and requests waiting; a machine that takes longer with nobody there has as much longer."""
    (port,) = free_ports(1)
    unfinished = done()
    await postgres.begins(unfinished)
    async with program(postgres.url, port) as process:
        alone, _ = await _stopped(process, signal.SIGTERM)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=20, limits=httpx.Limits(max_connections=None)
    ) as client:
        async with program(postgres.url, port) as process, AsyncExitStack() as stack:
            everybody = {"X-Tenant": "*"}
            path = f"/c/executions/{unfinished.execution_id}"
            waiting = [asyncio.ensure_future(client.get(path, headers=everybody)) for _ in range(50)]
            for _ in range(50):
                await (await stack.enter_async_context(events(client, path="/c/events", **everybody))).begun()
            took, text = await _stopped(process, signal.SIGTERM)
            assert {(await answer).status_code for answer in waiting} == {503}
    assert took < max(1.0, 4 * alone), f"{took:.2f} s, and {alone:.2f} s with nobody there"
    assert "ERROR" not in text


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
                _, text = await _stopped(process, signal.SIGTERM)
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
                _, text = await _stopped(process, signal.SIGINT)
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


async def test_a_position_that_is_gone_or_foreign_is_said_so(postgres: PostgresWorld) -> None:
    """410 for what cannot be resumed, 400 for what was never a position; a server that is away is 503, unnamed."""
    async with postgres.backend() as backend, serving(completions_app(backend, authorize=anybody)) as (client, _):
        foreign = str(ffc.StreamCursor.stream(1, 1))
        assert (await client.get("/events", headers={"Last-Event-ID": f"{foreign}.abc.1"})).status_code == 410
        for bad in ("xyz", "02zz.1.1", "..", "%00"):
            assert (await client.get("/events", headers={"Last-Event-ID": bad})).status_code == 400, bad
    (port,) = free_ports(1)
    async with ffc.connect(f"postgresql://secretuser@127.0.0.1:{port}/nowhere", setup_timeout=2) as backend:
        async with serving(completions_app(backend, authorize=anybody)) as (client, _):
            answer = await client.get("/events")
            assert answer.status_code == 503
            assert "127.0.0.1" not in answer.text


def test_a_grant_s_narrowing_agrees_with_what_it_admits() -> None:
    """What a narrowed grant admits, its parent does; covers is the same order."""
    all_, a, ab = Grant.everything(), Grant.of("a"), Grant.of("a", "b")
    tagged = Grant(namespaces=frozenset({"a"}), instance_tag=("k", "v"))
    id_ = ffc.ExecutionId(ID % 1)
    mine = ExecutionSnapshot(execution_id=id_, namespace="a", tags={"k": "v"})
    nobody = ExecutionSnapshot(execution_id=id_)
    assert all_.covers(ab) and ab.covers(a) and a.covers(tagged)
    assert not a.covers(ab) and not ab.covers(all_) and not tagged.covers(a)
    assert all(grant.admits(mine) for grant in (all_, a, ab, tagged))
    assert [grant.admits(nobody) for grant in (all_, a, ab, tagged)] == [True, False, False, False]
    assert ab.narrowed("a", None) == a
    assert a.narrowed("b", None) is None
    assert tagged.narrowed(None, ("k", "w")) is None
    assert a.narrowed(None, ("k", "v")) == tagged


def test_options_that_cannot_be_are_refused() -> None:
    """There and then."""
    backend = MemoryBackend()
    made = partial(completions_app, backend, authorize=anybody)
    for wrong in (
        partial(made, buffer_size=0),
        partial(made, max_clients=0),
        partial(made, keepalive=0),
        partial(made, reauthorize=0),
        partial(made, max_wait=-1),
    ):
        with pytest.raises(ffc.Validation):
            wrong()
