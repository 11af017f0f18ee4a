"""Servers that restart, freeze, refuse or are not there."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.consumers import watch
from tests import TESTS
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, eventually, first
from tests.worlds.forking import Interpreter
from tests.worlds.proxy import Proxy
from tests.worlds.templates import postgres


class Victim:
    """A world of its own, whose server may be hurt."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server = embedded.valkey() if kind == "valkey" else postgres(version=int(kind[8:]))
        self.world: World
        if kind == "valkey":
            self.world = ValkeyWorld(self.server.url)
            host, _, port = self.server.url.removeprefix("valkey://").partition(":")
            self.target: tuple[str, int] | str = (host, int(port))
        else:
            self.world = PostgresWorld(int(kind[8:]), self.server.url)
            self.target = str(self.server.directory / ".s.PGSQL.5432")

    def through(self, proxy: Proxy) -> str:
        """The URL that goes through the proxy."""
        if self.kind == "valkey":
            return f"valkey://127.0.0.1:{proxy.port}"
        return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"

    async def sql(self, query: str) -> Sequence[Sequence[int]]:
        assert isinstance(self.world, PostgresWorld)
        return await self.world.sql(query)

    async def restart(self, down_s: float = 0.3) -> None:
        self.server.kill()
        await asyncio.sleep(down_s)
        await asyncio.to_thread(self.server.start)
        await self.world.forget()


@pytest.fixture(scope="module", params=["valkey", "postgres18"])
def hurt(request: pytest.FixtureRequest) -> Iterator[Victim]:
    """One server for all the tests that hurt it: each leaves it running."""
    made = Victim(request.param)
    yield made
    made.server.close()


@pytest.fixture
async def victim(hurt: Victim) -> AsyncGenerator[Victim]:
    await hurt.world.reset()
    yield hurt
    await hurt.world.close()


async def _until_heard(victim: Victim, stream: ffc.CompletionStream, seconds: float) -> float:
    """Announce until something is heard; how long it took."""
    started = time.monotonic()
    waiting = asyncio.ensure_future(first(stream, seconds))
    while not waiting.done():
        await victim.world.announce(done())
        await asyncio.wait({waiting}, timeout=0.02)
    await waiting
    return time.monotonic() - started


async def test_a_stream_survives_restarts(victim: Victim, caplog: pytest.LogCaptureFixture) -> None:
    """The server crashes and comes back, twice; what is announced afterwards is yielded, and few lines are logged."""
    caplog.set_level(logging.INFO, "ffcompletion")
    async with victim.world.backend() as backend, ffc.subscribe(backend) as stream:
        for times in (1, 2):
            await victim.restart()
            await _until_heard(victim, stream, 20)
            await eventually(lambda times=times: backend.stats().reconnects >= times)
    assert len([record for record in caplog.records if record.name.startswith("ffcompletion")]) <= 8


async def test_waiting_over_a_restart(victim: Victim) -> None:
    """The server goes down and comes back while one is waited for that is never announced: the next read finds it."""
    item, announced = done(flow_id=None), done()
    async with victim.world.backend() as backend:
        waits = [
            asyncio.create_task(ffc.wait_for_completion(backend, id_, missing="wait", timeout=40, poll_interval=0.5))
            for id_ in (item.execution_id, announced.execution_id)
        ]
        await eventually(lambda: backend.stats().streams == 1)
        await victim.restart()
        for one in (item, announced):
            await victim.world.begins(one)
        await victim.world.ends(item, silently=True)
        await victim.world.ends(announced)
        # Postgres has no word for a success that left no row.
        assert [(await wait).outcome in ("success", "failed") for wait in waits] == [True, True]


async def test_a_wait_that_times_out_just_after_the_server_went_away(victim: Victim) -> None:
    """Asked a moment before, and not due again: what was known then, running, is not known now."""
    running = done()
    await victim.world.begins(running)
    with Proxy(victim.target) as proxy:
        async with ffc.connect(victim.through(proxy)) as backend:
            waiting = asyncio.create_task(
                ffc.wait_for_completion(backend, running.execution_id, timeout=6, poll_interval=600)
            )
            await eventually(lambda: any(each._answered_at for each in watch._watches.values()))
            proxy.refuse()
            proxy.cut()
            with pytest.raises(ffc.StateUnknown, match="reconnecting") as caught:
                await waiting
            assert 0 < caught.value.unanswered_s < 6


async def test_half_open_is_noticed(victim: Victim) -> None:
    """Nothing passes any more and nobody says so: noticed, and live again once the way is clear."""
    with Proxy(victim.target) as proxy:
        async with ffc.connect(victim.through(proxy)) as backend, ffc.subscribe(backend) as stream:
            await _until_heard(victim, stream, 10)
            proxy.freeze()
            await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING)
            proxy.cut()
            proxy.thaw()
            await _until_heard(victim, stream, 30)


async def test_closing_is_quick_while_the_server_is_mute(victim: Victim) -> None:
    """``aclose`` does not wait for a server that answers nothing."""
    with Proxy(victim.target) as proxy:
        backend = ffc.connect(victim.through(proxy))
        stream = await backend.subscribe_completions()
        proxy.freeze()
        # While a read or an echo is under way, and nothing answers it.
        await asyncio.sleep(1.2)
        started = time.monotonic()
        await stream.aclose()
        await backend.aclose()
        assert time.monotonic() - started < 10, "it never answers"


async def test_subscribing_to_a_mute_server_fails_in_time_and_does_not_block(victim: Victim) -> None:
    """Bounded, an ``EngineError``, and the loop goes on meanwhile."""
    with Proxy(victim.target) as proxy:
        proxy.freeze()
        stalls: list[float] = []

        async def heartbeat() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                stalls.append(time.monotonic() - before)

        beating = asyncio.ensure_future(heartbeat())
        started = time.monotonic()
        async with ffc.connect(victim.through(proxy), setup_timeout=1.5) as backend:
            with pytest.raises(ffc.EngineError) as caught:
                await backend.subscribe_completions()
        assert time.monotonic() - started < 15
        assert caught.value.__cause__ is not None
        beating.cancel()
        # What blocks does so for all of that time.
        assert max(stalls) < 1.2


async def test_closing_while_subscribing(victim: Victim) -> None:
    """A subscribe call that is cancelled leaves nothing behind."""
    with Proxy(victim.target) as proxy:
        proxy.freeze()
        async with ffc.connect(victim.through(proxy)) as backend:
            opening = asyncio.ensure_future(backend.subscribe_completions())
            await asyncio.sleep(0.2)
            opening.cancel()
            started = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert time.monotonic() - started < 10
            assert backend.stats().state is ffc.BackendState.IDLE


async def test_a_frozen_server_is_survived(victim: Victim) -> None:
    """SIGSTOP for a while, then SIGCONT: the stream goes on."""
    pids = [victim.server.pid]
    if victim.kind != "valkey":
        pids += [int(row[0]) for row in await victim.sql("SELECT pid FROM pg_stat_activity")]
    async with victim.world.backend() as backend, ffc.subscribe(backend) as stream:
        if victim.kind != "valkey":
            rows = await victim.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'ffcompletion'")
            pids = [victim.server.pid, *(int(r[0]) for r in rows)]
        _send(pids, signal.SIGSTOP)
        try:
            await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING, 15)
        finally:
            _send(pids, signal.SIGCONT)
        await _until_heard(victim, stream, 20)


def _send(pids: list[int], sign: signal.Signals) -> None:
    import os

    for pid in pids:
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("scheme", ["valkey", "postgresql"])
async def test_an_unreachable_server(scheme: str) -> None:
    """Nobody listens: our error in time, the driver's as its cause, the password in neither."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    async with ffc.connect(f"{scheme}://user:sEcReT@127.0.0.1:{port}") as backend:
        with pytest.raises((ffc.Unavailable, ffc.Transport)) as caught:
            await backend.subscribe_completions()
        assert "sEcReT" not in repr(backend) + str(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__cause__ is not None
    assert time.monotonic() - started < 20


async def test_fork_after_use(valkey_url: str, postgres18_url: str) -> None:
    """A child process gets a clear error instead of a broken connection."""
    script = TESTS / "programs" / "forks.py"
    for url in (valkey_url, postgres18_url):
        process = await asyncio.create_subprocess_exec(
            *Interpreter(), str(script), url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        # Python itself may warn of forking where there are threads.
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        assert out.decode().split() == ["child:refused", "parent:ok"], err.decode()


async def test_a_mute_server_fails_a_ping_in_time(victim: Victim) -> None:
    """Within the time for setting up, naming the server; once it speaks again, so does the ping."""
    with Proxy(victim.target) as proxy:
        async with ffc.connect(victim.through(proxy), setup_timeout=2.0) as backend:
            assert await backend.ping() < 2.0
            proxy.freeze()
            began = time.monotonic()
            with pytest.raises(ffc.Transport, match=r"127\.0\.0\.1"):
                await backend.ping()
            assert time.monotonic() - began < 15
            proxy.thaw()
            await backend.ping()
