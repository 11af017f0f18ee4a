"""Requests as an ASGI server may hand them over, without one: crowds, and servers and middleware that behave oddly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import CompletionsApp, Grant, completions_app
from ffcompletion.web.channel import Channel
from tests.doors.web.serving import ID
from tests.worlds import eventually

BEGINNING = str(ffc.StreamCursor.beginning())


async def by_header(request: Request) -> Grant | None:
    return Grant.of(request.headers["who"])


async def _never() -> Any:
    await asyncio.Event().wait()


def asked(
    app: CompletionsApp,
    who: str,
    send: Callable[[Any], Awaitable[None]],
    *,
    path: str = "/events",
    query: str = "",
    receive: Callable[[], Awaitable[Any]] = _never,
) -> asyncio.Task[None]:
    """One request under way."""
    scope = {
        "type": "http", "method": "GET", "path": path, "root_path": "", "query_string": query.encode(),
        "headers": [(b"who", who.encode())],
    }  # fmt: skip
    return asyncio.create_task(app(scope, receive, send), name="request")


async def ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("query", ["", f"last_event_id={BEGINNING}"])
async def test_what_a_crowd_is_sent_is_spread_over_many_turns_of_the_loop(query: str) -> None:
    """Each of a tenant's thousand clients was sent its event before anybody else had his."""
    sent: list[str] = []
    async with MemoryBackend() as backend:
        app = completions_app(backend, authorize=by_header)

        async def to_the_crowd(message: Any) -> None:
            if b"completion" in message.get("body", b""):
                sent.append("crowd")

        async def to_me(message: Any) -> None:
            if b"completion" in message.get("body", b""):
                sent.append("me")

        crowd = [asked(app, "hostile", to_the_crowd, query=query) for _ in range(1_000)]
        await eventually(lambda: backend.stats().streams == (1_000 if query else 1))
        mine = asked(app, "victim", to_me)
        await eventually(lambda: backend.stats().streams == (1_001 if query else 2))
        for _ in range(20):
            await asyncio.sleep(0.01)
        backend.emit(ID % 1, namespace="hostile")
        backend.emit(ID % 2, namespace="victim")
        await eventually(lambda: len(sent) == 1_001)
        assert sent.index("me") < 500
        await ended(mine, *crowd)
        await eventually(lambda: backend.stats().streams == 0)


async def test_whoever_resumes_keeps_nothing_that_nobody_comes_back_for() -> None:
    """Each kept a thousand events of its own: a tenant's thousand clients, a million."""
    async with MemoryBackend() as backend:
        app = completions_app(backend, authorize=by_header)
        got = bytearray()

        async def send(message: Any) -> None:
            got.extend(message.get("body", b""))

        client = asked(app, "a", send, query=f"last_event_id={BEGINNING}")
        for number in range(50):
            backend.emit(ID % number, namespace="a")
        await eventually(lambda: got.count(b"event: completion") == 50)
        (channel,) = [thing for thing in gc.get_objects() if isinstance(thing, Channel) and not thing.ended]
        assert not channel._recent
        await ended(client)
        await eventually(lambda: backend.stats().streams == 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", ["/events", f"/executions/{ID % 1}"])
async def test_a_body_that_is_played_back_for_ever_stops_nothing(path: str) -> None:
    """Middleware that has read the body answers with it at once, however often it is asked: the loop stood still."""
    async with MemoryBackend() as backend:
        backend.submit(ID % 1, namespace="a")
        app = completions_app(backend, authorize=by_header)
        sent, times = list[Any](), 0

        async def again() -> Any:
            nonlocal times
            times += 1
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        client = asked(app, "a", send, path=path, receive=again)
        await asyncio.sleep(0.3)
        assert times < 100
        backend.emit(ID % 1, namespace="a")
        await eventually(lambda: any((ID % 1).encode() in message.get("body", b"") for message in sent))
        await ended(client)
