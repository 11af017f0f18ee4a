"""One loop's use of a backend: one exchange, one run, its streams; its end, in order or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.tenure import Lease
from tests.unit.delivery.faked import Faked, Held, Server, Source
from tests.worlds import eventually


async def test_many_streams_are_one_run_and_the_last_one_ends_it(server: Server) -> None:
    """Opened at once, they wait for one start; nothing is held after the last."""
    async with Faked(server) as backend:
        streams = await asyncio.gather(*(backend.subscribe() for _ in range(20)))
        assert (server.count("run"), server.count("exchange"), backend.streams) == (1, 1, 20)
        for stream in streams[1:]:
            await stream.aclose()
        assert server.count("run") == 1
        await streams[0].aclose()
        await streams[0].aclose()
        assert server.held == []
        assert backend.state.state is BackendState.IDLE
        assert server.log.count("open run") == 1


async def test_a_question_leaves_the_exchange_for_the_next(server: Server) -> None:
    """Thirty in turn open it once; after a while it is released."""
    async with Faked(server) as backend:
        for _ in range(30):
            await backend.describe_execution("x")
        assert server.log.count("open exchange") == 1
        assert server.count("exchange") == 1
        await eventually(lambda: not server.held)
        await backend.describe_execution("x")
        assert server.log.count("open exchange") == 2


async def test_questions_do_not_care_about_streams(server: Server) -> None:
    """Asked while the last stream closes, and while the exchange is being released: each is answered."""
    server.slow = {"close run": 0.002, "ask": 0.001, "close exchange": 0.003}
    async with Faked(server) as backend:

        async def ask() -> None:
            for _ in range(50):
                await backend.describe_execution("x")
                await asyncio.sleep(0.003)

        async def listen() -> None:
            for _ in range(50):
                await (await backend.subscribe()).aclose()

        await asyncio.gather(ask(), ask(), listen(), listen())
    assert server.held == []


@pytest.mark.parametrize("step", ["open exchange", "open run", "go live", "open stream"])
async def test_closing_while_subscribing_ends_it(server: Server, step: str) -> None:
    """At each step: subscribe raises, at once, and nothing is held."""
    server.slow = {step: 60}
    backend = Faked(server, setup_timeout=50)
    subscribing = asyncio.create_task(backend.subscribe())
    await eventually(lambda: step in server.log)
    await asyncio.wait_for(backend.aclose(), 20)
    with pytest.raises(ffc.Unavailable, match="closed"):
        await asyncio.wait_for(subscribing, 20)
    assert server.held == []
    assert backend.state.state is BackendState.CLOSED
    for call in (backend.subscribe, lambda: backend.describe_execution("x")):
        with pytest.raises(ffc.Unavailable, match="closed"):
            await call()
    assert server.held == []


async def test_closing_on_the_very_last_step_hands_out_no_stream(server: Server) -> None:
    """The set-up has succeeded, and the backend is closed before its caller runs again."""
    backend = Faked(server)

    async def make(run: Held, lease: Lease) -> Source:
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(backend.aclose()))
        for _ in range(3):
            await asyncio.sleep(0)
        return Source(run, lease)

    with pytest.raises(ffc.Unavailable, match="closed"):
        await backend._open_stream("subscribe", make)
    await backend.aclose()
    assert server.held == []


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_step_and_subscribed_again(server: Server, turns: int) -> None:
    """Whoever comes next gets a live stream; nothing of the cancelled one stays."""
    async with Faked(server) as backend:
        subscribing = asyncio.create_task(backend.subscribe())
        for _ in range(turns):
            await asyncio.sleep(0)
        subscribing.cancel()
        try:
            await (await subscribing).aclose()
        except asyncio.CancelledError:
            pass
        await eventually(lambda: not server.held)
        stream = await backend.subscribe()
        assert not stream.run.ended
        await stream.aclose()
        assert server.held == []


async def test_a_cancelled_close_still_closes(server: Server) -> None:
    """Of the stream and of the backend."""
    server.slow = {"close run": 0.05}
    backend = Faked(server)
    stream = await backend.subscribe()
    closing = asyncio.create_task(stream.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await eventually(lambda: not server.held)
    await backend.subscribe()
    closing = asyncio.create_task(backend.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await eventually(lambda: not server.held)
    await backend.aclose()


async def test_a_mute_server_does_not_hold_up_closing(server: Server) -> None:
    """What does not end in order is aborted."""
    server.slow = {"close run": 60, "close exchange": 60}
    backend = Faked(server)
    stream = await backend.subscribe()
    await asyncio.wait_for(backend.aclose(), 20)
    assert stream.closed
    assert stream.run.ended == "abort"
    assert server.held == []


async def test_a_release_that_needs_no_wait_is_no_obstacle_to_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that begin eagerly, as Python 3.12 offers: one may be over before anybody could keep it."""
    loop = asyncio.get_running_loop()
    create_task = loop.create_task

    def eager(work: Any, **options: Any) -> Any:
        if options.get("name") != "ffcompletion-release":
            return create_task(work, **options)
        try:
            work.send(None)
        except StopIteration:
            done: asyncio.Future[None] = loop.create_future()
            done.set_result(None)
            return done
        raise AssertionError("there was something to wait for")

    backend = Faked(server)
    monkeypatch.setattr(loop, "create_task", eager)
    for _ in range(3):
        await backend.describe_execution("x")
    monkeypatch.undo()
    await backend.describe_execution("x")
    await eventually(lambda: not server.held)
    await backend.aclose()
