"""Completions over HTTP, under a real uvicorn: who sees what, coming back, slow clients, many clients, stopping."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.web import Grant, completions_app
from tests.doors.web.serving import ID, anybody, events, serving


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
