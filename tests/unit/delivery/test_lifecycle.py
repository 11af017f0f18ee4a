"""Who starts, who stops, who is refused: the base of the networked backends, over a server that is made up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, final

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.lifecycle import NetworkedBackend
from ffcompletion.delivery.tenure import Lease
from ffcompletion.foreign.logs import logger
from tests.worlds import done, eventually, first


@final
class Held:
    """Something on the server; counted while it is held."""

    def __init__(self, server: Server, kind: str) -> None:
        self.server, self.kind, self.loop = server, kind, asyncio.get_running_loop()
        self.ended = ""
        server.held.append(self)

    async def aclose(self) -> None:
        assert asyncio.get_running_loop() is self.loop, "touched from another loop"
        await self.server.step(f"close {self.kind}")
        self.end("aclose")

    def abort(self) -> None:
        self.end("abort")

    def end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            self.server.held.remove(self)


@final
class Server:
    """Counts what is held, and may stand still at any step."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.log: list[str] = []
        self.slow: dict[str, float] = {}

    async def step(self, what: str) -> None:
        self.log.append(what)
        await asyncio.sleep(self.slow.get(what, 0))

    def count(self, kind: str) -> int:
        return sum(held.kind == kind for held in self.held)


@final
class Source:
    """One stream: open until closed, then its lease ends."""

    def __init__(self, run: Held, lease: Lease) -> None:
        self.run, self.lease, self.closed = run, lease, False

    def abort(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.abort()
        await self.lease.aclose()


@final
class Faked(NetworkedBackend[Held, Held]):
    """The smallest adapter."""

    def __init__(self, server: Server, setup_timeout: float = 5.0) -> None:
        self.state = ConnectionState("faked", logger("ffcompletion.test"), None, Backoff())
        super().__init__(self.state, "faked at nowhere", setup_timeout, 0.1)
        self.server = server

    @override
    async def _make_exchange(self) -> Held:
        await self.server.step("open exchange")
        return Held(self.server, "exchange")

    @override
    async def _make_run(self, exchange: Held) -> Held:
        await self.server.step("open run")
        run = Held(self.server, "run")
        try:
            await self.server.step("go live")
        except BaseException:
            run.abort()
            raise
        self.state.live()
        return run

    async def subscribe(self) -> Source:
        async def make(run: Held, lease: Lease) -> Source:
            await self.server.step("open stream")
            return Source(run, lease)

        return await self._open_stream("subscribe", make)

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        async with self._querying("describe_execution") as exchange:
            await self.server.step("ask")
            assert not exchange.ended
            return [None for _ in execution_ids]

    @property
    def streams(self) -> int:
        return self._streams


@pytest.fixture
def server() -> Server:
    return Server()


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


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_memory_wakes_whoever_waits_whatever_thread_emits() -> None:
    """One at a time, each while the consumer goes to sleep: none lies there unseen."""
    taken = threading.Semaphore(0)
    async with MemoryBackend() as backend, ffc.subscribe(backend) as stream:

        def emit() -> None:
            for _ in range(500):
                backend.emit(done().execution_id)
                assert taken.acquire(timeout=30)

        emitting = asyncio.create_task(asyncio.to_thread(emit))
        for _ in range(500):
            await first(stream, 30)
            taken.release()
        await emitting


async def test_memory_closed_on_another_thread_ends_its_streams() -> None:
    """Those that wait, too."""
    backend = MemoryBackend()
    stream = await backend.subscribe_completions()
    waiting = asyncio.create_task(first(stream, 30))
    await asyncio.sleep(0)
    await asyncio.to_thread(asyncio.run, backend.aclose())
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), RuntimeError | StopAsyncIteration)


def test_memory_says_what_it_runs_on() -> None:
    """Without an asyncio loop; and nothing is left open."""
    backend = MemoryBackend()
    with pytest.raises(ffc.Unavailable, match="asyncio alone"):
        backend.subscribe_completions().send(None)
    assert backend.stats().streams == 0
