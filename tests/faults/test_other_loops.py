"""Where no asyncio loop runs (trio does, or nothing): every public coroutine says that it is asyncio's, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

import ffcompletion as ffc
from ffcompletion import doctor, producers
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.contract.checkpoint import Checkpoint

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
SAVED = Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="outbox", selection="")


async def entered(block: Any) -> None:
    async with block:
        pass


async def iterated(answers: Any) -> None:
    async with aclosing(answers):
        await anext(answers)


async def never() -> Any:
    yield


# Of any backend.
OF_A_BACKEND: dict[str, Callable[[Any], Awaitable[object]]] = {
    "subscribe_completions": lambda b: b.subscribe_completions(),
    "subscribe_completions_filtered": lambda b: b.subscribe_completions_filtered(ffc.ScannerFilter("a")),
    "subscribe": lambda b: entered(ffc.subscribe(b)),
    "subscribe, partitions": lambda b: entered(ffc.subscribe(b, partitions=[1])),
    "describe_execution": lambda b: b.describe_execution(ID),
    "describe_executions": lambda b: b.describe_executions([ID]),
    "flow_members": lambda b: b.flow_members(FLOW),
    "ping": lambda b: b.ping(),
    "wait_for_completion": lambda b: ffc.wait_for_completion(b, ID),
    "wait_for_completion, timeout": lambda b: ffc.wait_for_completion(b, ID, timeout=5),
    "wait_for_completion, a look": lambda b: ffc.wait_for_completion(b, ID, timeout=0),
    "wait_for_all": lambda b: ffc.wait_for_all(b, [ID]),
    "wait_for_flow": lambda b: ffc.wait_for_flow(b, FLOW),
    "as_completed": lambda b: iterated(ffc.as_completed(b, [ID])),
}
RESUMABLE: dict[str, Callable[[Any], Awaitable[object]]] = {
    "subscribe_completions_from": lambda b: b.subscribe_completions_from(ffc.StreamCursor.beginning()),
    "checkpointed": lambda b: entered(ffc.checkpointed(b, ffc.FileCheckpoints("/nonexistent/x"), "x")),
    "checkpointed, leased": lambda b: entered(
        ffc.checkpointed(b, ffc.FileCheckpoints("/nonexistent/x"), "x", lease="raise")
    ),
}
URLS = {"memory": "memory://", "valkey": "valkey://127.0.0.1:1", "postgres": "postgresql://nobody@127.0.0.1:1/x"}
# Of nothing but an address.
ELSEWHERE: dict[str, Callable[[], Awaitable[object]]] = {
    "broadcast": lambda: entered(ffc.broadcast(_Stream(), overflow="wait")),
    "stream_of": lambda: entered(ffc.stream_of(never())),
    "FileCheckpoints.load": lambda: ffc.FileCheckpoints("/nonexistent/x").load("x"),
    "FileCheckpoints.save": lambda: ffc.FileCheckpoints("/nonexistent/x").save("x", SAVED),
    "FileCheckpoints.acquire": lambda: ffc.FileCheckpoints("/nonexistent/x").acquire("x", wait=False),
    "PostgresCheckpoints.load": lambda: PostgresCheckpoints(URLS["postgres"]).load("x"),
    "PostgresCheckpoints.save": lambda: PostgresCheckpoints(URLS["postgres"]).save("x", SAVED),
    "PostgresCheckpoints.acquire": lambda: PostgresCheckpoints(URLS["postgres"]).acquire("x", wait=False),
    **{
        f"{name}, {kind}": call
        for kind in ("valkey", "postgres")
        for name, call in (
            ("install", lambda kind=kind: producers.install(URLS[kind])),
            ("uninstall", lambda kind=kind: producers.uninstall(URLS[kind])),
            ("prune", lambda kind=kind: producers.prune(URLS[kind], timedelta(hours=1))),
            ("examine", lambda kind=kind: doctor.examine(URLS[kind])),
        )
    },
}


class _Stream:
    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        pass


def by_trio(work: Callable[[], Awaitable[object]]) -> None:
    async def run() -> None:
        await work()

    trio.run(run)


def by_hand(work: Callable[[], Awaitable[object]]) -> None:
    async def run() -> None:
        await work()

    stepping: Coroutine[Any, Any, None] = run()
    try:
        stepping.send(None)
    except StopIteration:
        return
    finally:
        stepping.close()


RUNNERS = pytest.mark.parametrize("run", [by_trio, by_hand])


@RUNNERS
@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("call", [*OF_A_BACKEND, *RESUMABLE])
def test_a_backend_elsewhere(kind: str, call: str, run: Callable[[Any], None]) -> None:
    if call in RESUMABLE and kind == "valkey":
        pytest.skip("it keeps no log")
    backend = ffc.connect(URLS[kind])
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        run(lambda: (OF_A_BACKEND | RESUMABLE)[call](backend))
    assert backend.stats().streams == 0
    # Also in its block, whose end must not hide the reason.
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        run(lambda: _inside(backend, (OF_A_BACKEND | RESUMABLE)[call]))


async def _inside(backend: Any, call: Callable[[Any], Awaitable[object]]) -> None:
    async with backend:
        await call(backend)


@RUNNERS
@pytest.mark.parametrize("call", ELSEWHERE)
def test_everything_else_elsewhere(call: str, run: Callable[[Any], None]) -> None:
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        run(ELSEWHERE[call])


@RUNNERS
def test_what_is_planned_elsewhere(run: Callable[[Any], None]) -> None:
    """The memory backend's timer is the loop's."""

    async def plans() -> None:
        MemoryBackend().finish(ID, after=1)

    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        run(plans)


def test_a_backend_that_was_met_elsewhere_works(tmp_path: Path) -> None:
    """Nothing of it is spoilt."""
    import asyncio

    backend = MemoryBackend()
    with pytest.raises(ffc.Unavailable):
        by_trio(backend.subscribe_completions)

    async def works() -> str:
        async with ffc.subscribe(backend) as stream:
            backend.emit(ID, "success")
            return (await anext(stream)).outcome

    assert asyncio.run(works()) == "success"
