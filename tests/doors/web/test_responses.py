"""Answers that are no stream."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.web import Grant, completions_app
from tests.doors.web.serving import ID, anybody, comes_true, events, serving
from tests.worlds import PostgresWorld, eventually
from tests.worlds.servers import free_ports


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
        await eventually(lambda: comes_true(lambda: backend.stats().streams == 1))
        backend.emit(ID % 2, "success")
        assert (await asking).json()["outcome"] == "success"
        for path, who, status in [
            (ID % 8, "", 404), (ID % 8, "a", 404), (ID % 3, "a", 404), ("nonsense", "", 400), (ID % 2 + "?timeout=x", "", 400),
            (ID % 2 + "?timeout=1e9", "", 400), (ID % 2 + "?timeout=nan", "", 400),
        ]:  # fmt: skip
            assert (await client.get(f"/executions/{path}", headers={"who": who})).status_code == status, path


async def test_status_tells_counters_only_to_whom_everything_is_granted() -> None:
    """A tenant learns the state, not how much others do."""

    async def authorize(_: Request) -> Grant | None:
        return Grant.of("a")

    async with MemoryBackend() as backend, serving(completions_app(backend, authorize=authorize)) as (client, _):
        async with events(client, "?status=1") as stream:
            async for name, data in stream:
                assert (name, data) == ("status", {"resumable": True, "state": "live"})
                break


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
