"""Clients of the web door that mean ill, or do not care: what others are told, and when, is as if they were not there."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.routing import Mount

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import Grant, completions_app
from ffcompletion.web.channel import Channel
from ffcompletion.web.channels import Channels
from tests.doors.web.serving import ID, comes_true, events, serving
from tests.worlds import PostgresWorld, World, done, eventually

BEGINNING = str(ffc.StreamCursor.beginning())


async def by_header(request: Request) -> Grant | None:
    who = request.headers.get("who")
    return None if who is None else Grant.of(who)


def gone(what: Callable[[], object]) -> Any:
    return eventually(lambda: comes_true(lambda: not what()))


# ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def slow_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes a stream waits for its server."""
    aclose = Channel.aclose

    async def slowly(self: Channel) -> None:
        await asyncio.sleep(0.05)
        await aclose(self)

    monkeypatch.setattr(Channel, "aclose", slowly)


@pytest.mark.usefixtures("slow_to_close")
async def test_whoever_comes_while_the_last_one_leaves_is_counted() -> None:
    """He was not: the next to leave closed the stream beneath him, and one that was opened later stayed for ever."""
    async with MemoryBackend() as backend:
        channels, grant = Channels(backend, buffer_size=10, namespaces=False), Grant.of("a")

        async def visit(leave: asyncio.Event) -> None:
            async with channels.joined(grant, grant, None):
                await leave.wait()

        leave = asyncio.Event()
        first = asyncio.create_task(visit(leave))
        await eventually(lambda: comes_true(lambda: backend.stats().streams == 1))
        leave.set()
        await asyncio.sleep(0.01)
        async with channels.joined(grant, grant, None) as outbox:
            await asyncio.gather(first, visit(leave), visit(leave))
            assert not outbox.ended
            backend.emit(ID % 1, "success", namespace="a")
            await eventually(lambda: comes_true(lambda: (ID % 1).encode() in outbox.take()))
        assert (backend.stats().streams, len(channels)) == (0, 0)


@pytest.mark.usefixtures("slow_to_close")
@pytest.mark.parametrize("last_id", [None, BEGINNING])
async def test_a_leaving_that_is_cancelled_leaves_nothing(last_id: str | None) -> None:
    """And cancelled again, as by anyio's scopes, which middleware runs requests in."""
    async with MemoryBackend() as backend:
        channels, grant = Channels(backend, buffer_size=10, namespaces=False), Grant.of("a")

        async def visit() -> None:
            async with channels.joined(grant, grant, last_id):
                await asyncio.Event().wait()

        task = asyncio.create_task(visit())
        await eventually(lambda: comes_true(lambda: backend.stats().streams == 1))
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.001)
        await asyncio.wait([task])
        await gone(lambda: backend.stats().streams or len(channels))


async def test_a_crowd_that_comes_and_goes_leaves_nothing(world: World) -> None:
    """Of several tenants, live, resuming and waiting, beneath middleware; and one who stays has exactly his own."""

    async def tenant(request: Request) -> Grant | None:
        await asyncio.sleep(random.random() * 0.01)
        return Grant.of(request.query_params["who"])

    async def middle(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async with world.backend() as backend:
        door = completions_app(backend, authorize=tenant)
        whole = Starlette(routes=[Mount("/c", door)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=middle)])
        async with serving(whole) as (client, server):  # type: ignore[arg-type]  # any application
            port = server.servers[0].sockets[0].getsockname()[1]

            async def come_and_go(number: int) -> None:
                who = f"who=t{number % 7}"
                path = (f"events?{who}", f"events?{who}&last_event_id={BEGINNING}", f"executions/{ID % 1}?{who}")[
                    number % 3
                ]
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET /c/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await asyncio.sleep(random.random() * 0.1)
                writer.transport.abort()

            mine = [done(namespace="t0") for _ in range(5)]
            async with events(client, "?who=t0", path="/c/events") as stays:
                await stays.begun()
                for item in mine:
                    await asyncio.gather(*(come_and_go(number) for number in range(42)))
                    await world.announce(item, done(namespace="t1"))
                assert await stays.ids(len(mine)) == [item.execution_id for item in mine]
            await gone(lambda: door.clients)
            await gone(lambda: len(door._channels))
            await gone(lambda: backend.stats().streams)


# ── those who wait for the server ────────────────────────────────────────────────────────────────────────────────────


async def test_who_resumes_takes_turns_with_those_of_his_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks the server, and reads its log: a thousand such requests left no connection for anybody else."""
    subscribe, within, most = MemoryBackend.subscribe_completions_from, 0, 0
    go_on = asyncio.Event()

    async def slowly(self: MemoryBackend, cursor: ffc.StreamCursor, wanted: Any = None, /, **options: Any) -> Any:
        nonlocal within, most
        within += 1
        most = max(most, within)
        if wanted == ffc.ScannerFilter("hostile"):
            await go_on.wait()
        within -= 1
        return await subscribe(self, cursor, wanted, **options)

    monkeypatch.setattr(MemoryBackend, "subscribe_completions_from", slowly)
    async with MemoryBackend() as backend:
        for tenant in ("hostile", "victim"):
            backend.emit(ID % 1, "success", namespace=tenant)
        door = completions_app(backend, authorize=by_header)
        async with serving(door) as (client, _), AsyncExitStack() as stack:

            async def resume() -> list[str]:
                async with events(client, last=BEGINNING, who="hostile") as stream:
                    return await stream.ids(1)

            crowd = [asyncio.create_task(resume()) for _ in range(30)]
            await eventually(lambda: comes_true(lambda: door.clients == 30))
            for _ in range(3):
                victim = await stack.enter_async_context(events(client, last=BEGINNING, who="victim"))
                assert await victim.ids(1) == [ID % 1]
            assert most <= 5
            go_on.set()
            assert await asyncio.gather(*crowd) == [[ID % 1]] * 30, "and all of them are served"
        await gone(lambda: backend.stats().streams)


async def test_who_has_left_is_opened_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """His request went on, in front of those of others, for as long as the server took."""

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryBackend, "subscribe_completions_from", never)
    monkeypatch.setattr(MemoryBackend, "subscribe_completions_filtered", never)
    async with MemoryBackend() as backend:
        door = completions_app(backend, authorize=by_header)
        async with serving(door) as (_, server):
            port = server.servers[0].sockets[0].getsockname()[1]
            writers = []
            for query in ("", f"?last_event_id={BEGINNING}") * 5:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET /events{query} HTTP/1.1\r\nHost: x\r\nwho: a\r\n\r\n".encode())
                writers.append(writer)
            await eventually(lambda: comes_true(lambda: door.clients == 10))
            for writer in writers:
                writer.transport.abort()
            await gone(lambda: door.clients)


async def test_a_thousand_questions_are_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a request is about an execution of the tenant's was a question to the server for each."""
    describe, asked = MemoryBackend.describe_executions, 0

    async def counting(self: MemoryBackend, ids: Sequence[str], /, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        return await describe(self, ids, **options)

    monkeypatch.setattr(MemoryBackend, "describe_executions", counting)
    async with MemoryBackend() as backend:
        for number in range(40):
            backend.submit(ID % number, namespace="a" if number % 2 else "b")
        async with serving(completions_app(backend, authorize=by_header)) as (client, _):
            answers = await asyncio.gather(
                *(client.get(f"/executions/{ID % number}?timeout=0", headers={"who": "a"}) for number in range(80))
            )
    assert [answer.status_code for answer in answers] == [202 if n % 2 and n < 40 else 404 for n in range(80)]
    # And one of each wait's own, of those who may wait.
    assert asked <= 20 + 20


@pytest.mark.parametrize("postgres", [18], indirect=True)
async def test_a_storm_of_one_tenant_s_is_no_other_s(postgres: PostgresWorld) -> None:
    """Many clients that read everything from the beginning, and take nothing of it."""
    await postgres.announce(*(done(namespace="hostile") for _ in range(600)))
    async with postgres.backend() as backend:
        door = completions_app(backend, authorize=by_header, buffer_size=100)
        async with serving(door) as (client, server), AsyncExitStack() as stack:
            port = server.servers[0].sockets[0].getsockname()[1]
            live = await stack.enter_async_context(events(client, who="victim"))
            await live.begun()
            writers = []
            for _ in range(80):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
                writer.transport.pause_reading()  # type: ignore[attr-defined]  # of those that read
                writer.write(
                    f"GET /events HTTP/1.1\r\nHost: x\r\nwho: hostile\r\nLast-Event-ID: {BEGINNING}\r\n\r\n".encode()
                )
                writers.append((reader, writer))
            mine = [done(namespace="victim") for _ in range(5)]
            for item in mine:
                began = time.monotonic()
                await postgres.begins(item)
                waiting = asyncio.create_task(client.get(f"/executions/{item.execution_id}", headers={"who": "victim"}))
                await asyncio.sleep(0.05)
                await postgres.ends(item)
                assert (await waiting).json()["finished"]
                late = await stack.enter_async_context(events(client, last=BEGINNING, who="victim"))
                assert await late.ids(1) == [mine[0].execution_id]
                assert time.monotonic() - began < 8
            assert await live.ids(5) == [item.execution_id for item in mine]
            for _, writer in writers:
                writer.transport.abort()
        await gone(lambda: backend.stats().streams)


async def test_large_results_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were waited for were one question, and with it the states of others: twenty of 30 MB ended the server."""
    describe, asked, go_on = MemoryBackend.describe_executions, list[int](), asyncio.Event()

    async def slowly(self: MemoryBackend, ids: Sequence[str], /, *, result: bool = False) -> Any:
        if result:
            asked.append(len(ids))
            await go_on.wait()
        return await describe(self, ids, result=result)

    monkeypatch.setattr(MemoryBackend, "describe_executions", slowly)
    async with MemoryBackend() as backend:
        large = b"x" * (5 << 20)
        for number in range(8):
            backend.emit(ID % number, "success", namespace="hostile", payload_bytes=large)
        for number in range(8, 60):
            backend.emit(ID % number, "success", namespace="hostile", payload_bytes=b"small")
        backend.emit(ID % 100, "success", namespace="victim", payload_bytes=b"mine")
        async with serving(completions_app(backend, authorize=by_header)) as (client, _):

            async def wants(number: int, who: str) -> str:
                answer = await client.get(f"/executions/{ID % number}?result=1", headers={"who": who})
                return str(answer.json()["result"])

            crowd = [asyncio.create_task(wants(number, "hostile")) for number in range(8)]
            await eventually(lambda: comes_true(lambda: len(asked) > 0))
            answer = await client.get(f"/executions/{ID % 100}", headers={"who": "victim"})
            assert answer.json()["finished"], "whoever wants no result does not wait for those of others"
            mine = asyncio.create_task(wants(100, "victim"))
            await asyncio.sleep(0.1)
            go_on.set()
            assert await mine == "mine"
            assert {len(text) for text in await asyncio.gather(*crowd)} == {len(large)}
        assert set(asked) == {1}, "one of unknown size, and each that is large, is asked for alone"
        asked.clear()
        some = await ffc.wait_for_all(backend, [ID % number for number in range(8, 60)], result=True)
        assert {one.payload_bytes for one in some.values()} == {b"small"}
        assert max(asked) == 16


async def test_one_tenant_s_clients_leave_places_for_others() -> None:
    """As many connections as it likes: it had all places, and everybody else 503."""
    async with MemoryBackend() as backend:
        door = completions_app(backend, authorize=by_header, max_clients=20)
        async with serving(door) as (client, _), AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(events(client, who="hostile")) for _ in range(15)]
            for stream in crowd:
                await stream.begun()
            refused = await client.get("/events", headers={"who": "hostile"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            mine = await stack.enter_async_context(events(client, who="victim"))
            await mine.begun()
            backend.emit(ID % 1, "success", namespace="victim")
            assert await mine.ids(1) == [ID % 1]
            assert (await client.get(f"/executions/{ID % 1}", headers={"who": "victim"})).status_code == 200


# ── what may be seen ─────────────────────────────────────────────────────────────────────────────────────────────────


FORGED = [
    "-", "-.x.1", "--", "02", "02" + "ff" * 8, "01" + "ff" * 16, "ff" * 17, "80" + "00" * 16 + ".x.1", "x" * 8_000, ".", "..",
    "0" * 8_000, "02" * 9, " ", "\N{FULLWIDTH DIGIT ZERO}", "02000000000000000\N{ARABIC-INDIC DIGIT THREE}", "\0", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("world", ["memory", "postgres18"], indirect=True)
async def test_a_position_that_nobody_was_sent_shows_nothing_else(world: World) -> None:
    """Refused, gone, or served from where it says: what it shows is the tenant's own."""
    async with world.backend() as backend:
        item = done(namespace="mine")
        await world.announce(item, done(namespace="stranger"))
        door = completions_app(backend, authorize=by_header)
        async with serving(door) as (client, _):
            async with events(client, last=BEGINNING, who="mine") as stream:
                assert await stream.ids(1) == [item.execution_id]
                sent = stream.last_id
            assert sent is not None
            cursor, nonce, number = sent.split(".")
            for forged in (
                *FORGED,
                f"{cursor}.{nonce}.-1",
                f"{cursor}.{nonce}.{'9' * 5_000}",
                f"{cursor}.{nonce}.{number}.x",
            ):
                answer = asyncio.create_task(_status(client, forged))
                status, text = await answer
                assert status in (200, 400, 410), (forged, text)
                assert "stranger" not in text
        await gone(lambda: backend.stats().streams)


async def _status(client: httpx.AsyncClient, last_id: str) -> tuple[int, str]:
    async with client.stream("GET", "/events", params={"last_event_id": last_id}, headers={"who": "mine"}) as answer:
        text = "" if answer.status_code == 200 else (await answer.aread()).decode()
        return answer.status_code, text


@pytest.mark.parametrize("postgres", [18], indirect=True)
async def test_a_position_in_a_hole_fills_no_log(postgres: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """A client may name any, as often as it likes: each was a line."""
    await postgres.announce(*(done(namespace="a") for _ in range(10)))
    ((first_id,),) = await postgres.sql("SELECT min(event_id) FROM ff_completion_event")
    await postgres.sql("DELETE FROM ff_completion_event WHERE event_id < %s", (first_id + 5,))
    hole = str(ffc.StreamCursor.outbox(first_id + 1))
    async with postgres.backend() as backend, serving(completions_app(backend, authorize=by_header)) as (client, _):
        for _ in range(5):
            async with events(client, last=hole, who="a") as stream:
                assert len(await stream.ids(5)) == 5
    assert caplog.text.count("whether they were trimmed cannot be told") <= 1


async def test_a_grant_that_is_narrowed_shows_no_counters_any_more() -> None:
    """They are everybody's, also where the stream was asked for one tenant alone."""
    grant = Grant.everything()

    async def changes(_: Request) -> Grant:
        return grant

    async with MemoryBackend() as backend:
        door = completions_app(backend, authorize=changes, reauthorize=0.1)
        async with serving(door) as (client, _):
            async with events(client, "?namespace=a&status=1") as stream:
                async for name, data in stream:
                    if name == "status":
                        assert "stats" in data
                        break
                grant = Grant.of("a")
                async with asyncio.timeout(20):
                    async for _ in stream:
                        pass
            async with events(client, "?namespace=a&status=1") as stream:
                async for name, data in stream:
                    if name == "status":
                        assert "stats" not in data
                        break


@pytest.mark.parametrize("fault", ["raises", "is wrong"])
async def test_who_is_refused_again_and_again_fills_no_log(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed token may be what it raises for, and anybody can send that."""

    async def authorize(_: Request) -> Any:
        if fault == "raises":
            raise ValueError("no token of ours")
        return True

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        for _ in range(50):
            assert (await client.get("/events")).status_code == 403
    lines = [record for record in caplog.records if record.name == "ffcompletion.web"]
    assert len(lines) == 1
    assert (lines[0].exc_info is not None) is (fault == "raises")


async def test_what_authorize_raises_that_is_no_answer_is_a_refusal() -> None:
    """Its detail may be whatever the application had at hand: it was an error of the server's, with a traceback."""

    async def authorize(_: Request) -> Grant:
        raise HTTPException(401, object())  # type: ignore[arg-type]  # that is the point

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        assert (await client.get("/events")).json() == {"error": "not allowed"}
