"""Waiting while the server is away, waiting for nothing, and waiting in a row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.consumers import watch
from tests.worlds import MemoryWorld, PostgresWorld, World, done, eventually


async def test_a_look_without_waiting(world: World) -> None:
    """``timeout=0``: what has finished is answered, with its result; what has not is a plain ``TimeoutError``."""
    async with world.backend() as backend:
        finished, running, flow = done(result=b"x"), done(), "11111111-1111-1111-1111-111111111111"
        await world.begins(finished)
        await world.ends(finished)
        await world.begins(running)
        got = await ffc.wait_for_completion(backend, finished.execution_id, timeout=0, result=True)
        assert (got.outcome, got.payload_bytes) == ("success", b"x")
        with pytest.raises(TimeoutError, match="has not finished") as caught:
            await ffc.wait_for_completion(backend, running.execution_id, timeout=0)
        assert not isinstance(caught.value, ffc.StateUnknown)
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_completion(backend, done().execution_id, timeout=0)
        ids = [finished.execution_id, running.execution_id]
        seen: list[str] = []
        with pytest.raises(TimeoutError, match="1 of 2"):
            async for completion in ffc.as_completed(backend, ids, timeout=0):
                seen.append(completion.execution_id)
        assert seen == [finished.execution_id]
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_flow(backend, flow, timeout=0)
        assert backend.stats().streams == 0


class _Away:
    """Announcements could come; the state cannot be asked."""

    def __init__(self, fault: ffc.EngineError | None) -> None:
        self._fault = fault
        self.back = False
        self.linger = 0.0

    async def subscribe_completions(self, /) -> Any:
        return await ffc.connect("memory://").subscribe_completions()

    async def subscribe_completions_filtered(self, filter: ffc.CompletionFilter, /) -> Any:
        raise NotImplementedError

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> Any:
        raise NotImplementedError

    async def describe_executions(self, execution_ids: Sequence[str], /, *, result: bool = False) -> Any:
        if self.back:
            return [None for _ in execution_ids]
        if self._fault is None:
            await asyncio.sleep(60)
        raise self._fault or AssertionError


@pytest.mark.parametrize("fault", [ffc.Transport("db", "connection refused"), ffc.ResourceExhausted("pool"), None])
async def test_a_time_out_while_nothing_answers(fault: ffc.EngineError | None) -> None:
    """Not "has not finished", which reads as running: not known, since when, and why."""
    started = time.monotonic()
    with pytest.raises(ffc.StateUnknown, match="not known") as caught:
        await ffc.wait_for_completion(_Away(fault), done().execution_id, timeout=0.8, poll_interval=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is fault
    assert 0.3 < caught.value.unanswered_s <= time.monotonic() - started
    if fault is not None:
        assert str(fault) in str(caught.value)
        with pytest.raises(ffc.StateUnknown) as looked:
            await ffc.wait_for_completion(_Away(fault), done().execution_id, timeout=0)
        assert looked.value.__cause__ is fault


async def test_each_wait_says_since_when_nobody_answered_it() -> None:
    """Not since an earlier one, in whose place nobody asked: the server may have been there in between."""
    backend = _Away(ffc.Transport("db", "connection refused"))
    backend.linger = 60.0
    unanswered: list[float] = []
    for seconds in (1.0, 0.2):
        with pytest.raises(ffc.StateUnknown) as caught:
            await ffc.wait_for_completion(backend, done().execution_id, timeout=seconds, poll_interval=0.1)
        unanswered.append(caught.value.unanswered_s)
    assert unanswered[1] < 0.8
    await watch._watches[id(backend), id(asyncio.get_running_loop())].close()


async def test_it_is_known_again_once_somebody_answers() -> None:
    """After the fault: the plain kind."""
    backend = _Away(ffc.Transport("db", "connection refused"))
    waiting = asyncio.create_task(
        ffc.wait_for_completion(backend, done().execution_id, timeout=1.5, poll_interval=0.1, missing="wait")
    )
    await asyncio.sleep(0.3)
    backend.back = True
    with pytest.raises(TimeoutError, match="has not finished") as caught:
        await waiting
    assert not isinstance(caught.value, ffc.StateUnknown)


async def test_waits_in_a_row_share_what_was_opened(postgres18_url: str) -> None:
    """Thirty, one after the other, no stream open: one set-up. Closing the backend waits for nothing."""
    world = PostgresWorld(18, postgres18_url)
    item = done()
    await world.announce(item)
    events: list[ffc.BackendState] = []
    backend = ffc.connect(postgres18_url, linger=60, observer=lambda event: events.append(event.state))
    for _ in range(30):
        await ffc.wait_for_completion(backend, item.execution_id, timeout=20)
    assert events.count(ffc.BackendState.LIVE) == 1
    started = time.monotonic()
    await backend.aclose()
    assert time.monotonic() - started < 20, "nothing that lingers is waited for"
    await eventually(lambda: not watch._watches)
    with pytest.raises(ffc.Unavailable, match="closed"):
        await ffc.wait_for_completion(backend, item.execution_id, timeout=5)
    await world.close()


async def test_what_lingers_is_released_by_itself(world: World) -> None:
    """`linger` seconds after the last wait or question nothing is held; with 0, at once."""
    if not world.networked:
        pytest.skip("holds nothing on a server")
    item = done()
    await world.announce(item)

    async def released() -> bool:
        return await world.connections() == 0

    async with world.backend(linger=0.4) as backend:
        await ffc.wait_for_completion(backend, item.execution_id, timeout=20)
        assert backend.stats().streams == 1
        await eventually(lambda: backend.stats().state is ffc.BackendState.IDLE)
        await eventually(released)
        await backend.describe_execution(item.execution_id)
        held = await world.connections()
        assert held == 1
        await backend.describe_execution(item.execution_id)
        assert await world.connections() == held
        await eventually(released)
    async with world.backend(linger=0) as backend:
        await ffc.wait_for_completion(backend, item.execution_id, timeout=20)
        assert backend.stats().state is ffc.BackendState.IDLE
        await backend.describe_execution(item.execution_id)
        await eventually(released)


async def test_what_lingers_for_long_is_there_for_long(world: World) -> None:
    """An idle connection is not given up before its time; closing waits for none of it."""
    if not world.networked:
        pytest.skip("holds nothing on a server")
    backend = world.backend(linger=3600)
    await backend.describe_execution(done().execution_id)
    pool = getattr(backend, "_tenure")._exchange  # noqa: B009  # a look inside: hours are not waited for
    assert getattr(pool, "_idle_s", 3600) >= 3600
    started = time.monotonic()
    await backend.aclose()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("linger", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("url", ["valkey://h", "postgresql://h/x"])
def test_what_linger_cannot_be(url: str, linger: float) -> None:
    with pytest.raises(ffc.Validation, match="linger"):
        ffc.connect(url, linger=linger)


async def test_a_third_party_backend_is_let_go_of_at_once() -> None:
    """It never said that it lingers."""
    world = MemoryWorld()
    async with world.backend() as backend:
        item = done()
        await world.announce(item)
        await ffc.wait_for_completion(backend, item.execution_id, timeout=5)
        assert not watch._watches
