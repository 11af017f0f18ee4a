"""Who starts, who stops, who is refused: the base of the networked backends, over a server that is made up."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import ffcompletion as ffc
from tests.unit.delivery.faked import Faked, Server, Source
from tests.worlds import eventually


async def test_a_time_limit_names_what_is_known(server: Server) -> None:
    """The last fault, where there was one."""
    server.slow = {"open stream": 60}
    async with Faked(server, setup_timeout=0.05) as backend:
        with pytest.raises(ffc.Transport, match="timed out"):
            await backend.subscribe()
        first = ffc.Unavailable("subscribe", "refused the credentials")
        server.slow = {}
        stream = await backend.subscribe()
        backend.state.broken("x", first)
        server.slow = {"open stream": 60}
        with pytest.raises(ffc.Transport, match="refused the credentials") as caught:
            await backend.subscribe()
        assert caught.value.__cause__ is first
        await stream.aclose()


# ── loops ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_loops_in_turn(server: Server) -> None:
    """Streams and questions on one loop after the other; what the last one left lingering is gone at the next."""
    backend = Faked(server)

    async def use() -> None:
        await backend.describe_execution("x")
        await (await backend.subscribe()).aclose()
        await backend.describe_execution("x")

    for _ in range(4):
        asyncio.run(use())
        assert server.count("run") == 0
        assert server.count("exchange") <= 1
    asyncio.run(backend.aclose())
    assert server.held == []


def test_a_loop_that_died_with_its_streams_open(server: Server) -> None:
    """They are ended, without a touch of the dead loop; the next loop starts afresh."""
    backend = Faked(server)
    streams: list[Source] = []

    async def leave() -> None:
        streams.append(await backend.subscribe())

    async def follow() -> None:
        stream = await backend.subscribe()
        assert (streams[0].closed, streams[0].run.ended) == (True, "abort")
        assert stream.run is not streams[0].run
        await streams[0].aclose()
        assert server.count("run") == 1
        await stream.aclose()

    asyncio.run(leave())
    assert server.count("run") == 1
    asyncio.run(follow())
    asyncio.run(leave())
    asyncio.run(backend.aclose())
    assert server.held == []


def test_another_loop_that_lives_is_refused_at_once(server: Server) -> None:
    """For streams and for questions, while the first one has a stream, or is about to have one."""
    backend = Faked(server)

    async def refused() -> None:
        for call in (backend.subscribe, lambda: backend.describe_execution("x")):
            with pytest.raises(ffc.Unavailable, match="another event loop"):
                await asyncio.wait_for(call(), 20)

    async def main() -> None:
        server.slow = {"open run": 0.3}
        opening = asyncio.create_task(backend.subscribe())
        await asyncio.sleep(0.01)
        await asyncio.to_thread(asyncio.run, refused())
        stream = await opening
        await asyncio.to_thread(asyncio.run, refused())
        await stream.aclose()
        await backend.describe_execution("x")
        # Nothing but a lingering exchange: the other loop takes over.
        await asyncio.to_thread(asyncio.run, take_over())
        await eventually(lambda: server.count("exchange") <= 1)
        await backend.aclose()

    async def take_over() -> None:
        await (await backend.subscribe()).aclose()

    asyncio.run(main())
    assert server.held == []


def test_two_first_calls_from_two_threads_at_the_same_instant(server: Server) -> None:
    """One is served, the other gets the clear error; neither hangs, and time-outs are kept."""
    for _ in range(20):
        backend = Faked(server)
        server.slow = {"ask": 0.02}
        barrier, answers = threading.Barrier(2), list[Any]()

        def first_call(backend: Faked = backend, barrier: threading.Barrier = barrier, answers: Any = answers) -> None:
            async def ask() -> None:
                barrier.wait()
                try:
                    answers.append(await asyncio.wait_for(backend.describe_execution("x"), 5))
                except Exception as exc:
                    answers.append(exc)

            asyncio.run(ask())

        threads = [threading.Thread(target=first_call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        served = [answer for answer in answers if answer is None]
        refused = [answer for answer in answers if isinstance(answer, ffc.Unavailable)]
        assert (len(served), len(refused)) in ((1, 1), (2, 0)), answers
        asyncio.run(backend.aclose())
    assert server.held == []


def test_closing_from_another_thread(server: Server) -> None:
    """It is closed on its own loop, streams and calls under way included."""
    backend = Faked(server)

    async def main() -> None:
        stream = await backend.subscribe()
        server.slow = {"ask": 60}
        asking = asyncio.create_task(backend.describe_execution("x"))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(asyncio.run, backend.aclose())
        assert (stream.closed, stream.run.ended) == (True, "aclose")
        with pytest.raises(ffc.Unavailable, match="closed"):
            await asking

    asyncio.run(main())
    assert server.held == []


def test_no_asyncio_loop_is_our_error(server: Server) -> None:
    """Driven by something else, a call says what it runs on."""
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        Faked(server).subscribe().send(None)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────
