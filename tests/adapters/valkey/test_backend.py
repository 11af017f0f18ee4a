"""Valkey backends that are cancelled, closed, followed from loop to loop, and asked at a bad moment: on a real server."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.foreign.logs import logger
from tests.worlds import Done, ValkeyWorld, done, eventually, first, some
from tests.worlds.proxy import Proxy

UNKNOWN = "{fp:1}:00000000-0000-0000-0000-000000000001"
NEVER = 3600.0


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].split("/")[0])


async def _traffic(valkey: ValkeyWorld) -> None:
    while True:
        await valkey.publish(done())
        await asyncio.sleep(0)


async def test_cancelled_at_any_await_then_subscribed_again_under_traffic(valkey: ValkeyWorld) -> None:
    """Wherever the first subscribe is cancelled, the next one's stream receives, and nothing stays on the server."""
    dice = random.Random(7)
    traffic = asyncio.create_task(_traffic(valkey))
    try:
        async with ValkeyBackend(valkey.url, reconcile_interval=dice.choice([0, NEVER])) as backend:
            for _ in range(25):
                subscribing = asyncio.create_task(backend.subscribe_completions())
                for _ in range(dice.randrange(60)):
                    await asyncio.sleep(dice.choice([0, 0, 0.001]))
                    if subscribing.done():
                        break
                subscribing.cancel()
                try:
                    await (await subscribing).aclose()
                except asyncio.CancelledError:
                    pass
                async with ffc.subscribe(backend) as stream:
                    await some(stream, 20)
                assert backend.stats().state is ffc.BackendState.IDLE
            await eventually(lambda: _gone(valkey))
    finally:
        traffic.cancel()
        await asyncio.wait({traffic})


async def _gone(valkey: ValkeyWorld) -> bool:
    return await valkey.connections() == 0


async def test_closed_at_any_moment_of_a_subscribe(valkey: ValkeyWorld) -> None:
    """It raises, or its stream ends; the server holds nothing afterwards."""
    dice = random.Random(8)
    for _ in range(25):
        backend = ValkeyBackend(valkey.url)
        subscribing = asyncio.create_task(backend.subscribe_completions())
        for _ in range(dice.randrange(60)):
            await asyncio.sleep(dice.choice([0, 0, 0.001]))
        await backend.aclose()
        try:
            stream = await subscribing
        except ffc.Unavailable:
            continue
        with pytest.raises(StopAsyncIteration):
            await first(stream)
    await eventually(lambda: _gone(valkey))


async def test_refused_credentials_are_a_fault_like_any_other(valkey: ValkeyWorld) -> None:
    """Rotated under an open stream and given back: what was finished meanwhile arrives."""
    user = "rotated"
    await valkey.command("ACL", "SETUSER", user, "reset", "on", ">old", "allkeys", "allchannels", "allcommands")
    try:
        backend = ValkeyBackend(valkey.url, username=user, password="old", reconcile_interval=0.3)
        async with backend, ffc.subscribe(backend) as stream:
            await valkey.command("ACL", "SETUSER", user, "resetpass", ">new")
            await valkey.command("CLIENT", "KILL", "USER", user)
            missed = [done() for _ in range(3)]
            for item in missed:
                await valkey.finish(item)
            await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING)
            await asyncio.sleep(1.0)
            await valkey.command("ACL", "SETUSER", user, "resetpass", ">old")
            got = {item.execution_id for item in await some(stream, 3, 20)}
            assert got == {item.execution_id for item in missed}
    finally:
        await valkey.command("ACL", "DELUSER", user)


async def test_a_password_that_is_asked_for_at_each_connect(
    valkey: ValkeyWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Rotated for good: the callable gives the new one, each kind of cause is told, and the stream goes on."""
    user, password, asked = "token", "old", 0
    await valkey.command("ACL", "SETUSER", user, "reset", "on", ">old", "allkeys", "allchannels", "allcommands")

    async def current() -> str:
        nonlocal asked
        asked += 1
        return password

    try:
        backend = ValkeyBackend(valkey.url, username=user, password=current, reconcile_interval=0.3, setup_timeout=1.5)
        async with backend, ffc.subscribe(backend) as stream:
            await valkey.command("ACL", "SETUSER", user, "resetpass", ">new")
            await valkey.command("CLIENT", "KILL", "USER", user)
            await eventually(lambda: "refused the credentials" in caplog.text)
            with pytest.raises(ffc.EngineError, match="refused the credentials"):
                await backend.subscribe_completions()
            password = "new"
            item = done()
            await valkey.finish(item)
            assert (await first(stream, 20)).execution_id == item.execution_id
            assert asked > 2
            told = [record for record in caplog.records if "refused the credentials" in record.getMessage()]
            assert len([record for record in told if "reconnecting" in record.getMessage()]) <= 2
    finally:
        await valkey.command("ACL", "DELUSER", user)


async def test_a_password_s_callable_that_raises_is_named_without_its_text(valkey: ValkeyWorld) -> None:
    """Plain or async; the error says so and quotes nothing of it."""

    def broken() -> str:
        raise RuntimeError("s3cret")

    async with ValkeyBackend(valkey.url, password=broken) as backend:
        for call in (backend.subscribe_completions, lambda: backend.describe_execution(UNKNOWN)):
            with pytest.raises(ffc.EngineError, match="RuntimeError") as caught:
                await call()
            assert "s3cret" not in str(caught.value)


def test_one_backend_on_three_loops_in_turn(valkey_url: str) -> None:
    """Streams and questions, closed properly or left open: none is deaf, and nothing is left on the server."""
    backend = ValkeyBackend(valkey_url)
    left: list[Any] = []

    async def use(leave: bool) -> None:
        valkey = ValkeyWorld(valkey_url)
        for _ in range(2):
            assert await asyncio.wait_for(backend.describe_execution(UNKNOWN), 5) is None
        stream = await backend.subscribe_completions()
        item = done()
        await valkey.publish(item)
        assert (await first(stream)).execution_id == item.execution_id
        if leave:
            left.append(stream)
        else:
            await stream.aclose()
        await valkey.close()

    for leave in (False, False, True, False, True):
        asyncio.run(use(leave))

    async def close() -> None:
        await backend.aclose()
        valkey = ValkeyWorld(valkey_url)
        await eventually(lambda: _gone(valkey))
        for stream in left:
            await stream.aclose()
        await valkey.close()

    asyncio.run(close())


async def test_a_second_loop_is_refused_while_the_first_has_a_stream(valkey: ValkeyWorld) -> None:
    """At once, for streams, questions, waits and members of a flow."""
    async with valkey.backend() as backend, ffc.subscribe(backend):

        async def elsewhere() -> None:
            for call in (
                backend.subscribe_completions,
                lambda: backend.describe_execution(UNKNOWN),
                lambda: ffc.wait_for_completion(backend, UNKNOWN, timeout=5),
                lambda: backend.flow_members("550e8400-e29b-41d4-a716-446655440000"),
            ):
                with pytest.raises(ffc.Unavailable, match="another event loop"):
                    await asyncio.wait_for(call(), 20)

        await asyncio.to_thread(asyncio.run, elsewhere())


# ── records and announcements that make no sense ─────────────────────────────────────────────────────────────────


async def test_absurdly_long_words_are_malformed(valkey: ValkeyWorld) -> None:
    """An outcome or an id of thousands of characters: counted, and kept nowhere."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0) as backend, ffc.subscribe(backend) as stream:
        bare = done().execution_id.partition("}:")[2]
        for execution_id, outcome in (
            (done().execution_id, "x" * 9_000),
            ("{fp:" + "0" * 9_000 + "7}:" + bare, "success"),
        ):
            await valkey.publish(Done(execution_id=execution_id, outcome=outcome))
        item = done()
        await valkey.publish(item)
        assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().malformed == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["setup_timeout", "reconcile_interval", "clock_skew"])
def test_numbers_that_are_none_are_refused(name: str, value: float) -> None:
    """Before anything is sent."""
    options: Any = {name: value}
    with pytest.raises(ffc.Validation):
        ValkeyBackend("valkey://localhost", **options)


async def test_closing_fifty_overflowing_streams_on_a_mute_server(valkey: ValkeyWorld) -> None:
    """Together, within about a second."""
    with Proxy(("127.0.0.1", _port(valkey.url))) as proxy:
        backend = ValkeyBackend(f"valkey://127.0.0.1:{proxy.port}", buffer_size=1)
        streams = [await backend.subscribe_completions() for _ in range(50)]
        for _ in range(5):
            await valkey.finish(done())
        await eventually(lambda: backend.stats().received == 5)
        proxy.freeze()
        started = asyncio.get_running_loop().time()
        await backend.aclose()
        # One after the other would take many times that.
        assert asyncio.get_running_loop().time() - started < 8
        assert len(streams) == 50
        proxy.cut()


async def test_counters_add_up_and_never_run_backwards(valkey: ValkeyWorld) -> None:
    """Through overflow, recovery from the index and a second start; with a filter and without."""
    items = [done(namespace="ab"[number % 2]) for number in range(200)]
    async with ValkeyBackend(valkey.url, reconcile_interval=0.3, buffer_size=20) as backend:
        for turn in (1, 2):
            plain = await backend.subscribe_completions()
            mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            for item in items:
                await valkey.finish(item)
            solo = done(flow_id=None, namespace="b")
            await valkey.finish(solo)
            for stream, count in ((plain, 201), (mine, 100)):
                got: list[str] = []
                async with asyncio.timeout(30):
                    while len(set(got)) < count or stream.stats().catching_up or stream.stats().buffered:
                        try:
                            got.append((await first(stream, 0.1)).execution_id)
                        except TimeoutError:
                            continue  # the last of what it missed may be nothing
                await eventually(lambda stream=stream, count=count: stream.stats().filtered >= 201 - count)
                stats = stream.stats()
                # At least once: what the index brought may have been announced as well, and counts as often as it came.
                assert (stats.delivered, len(set(got)), stats.lost, stats.undecided) == (len(got), count, 0, 0), stats
                assert stats.filtered >= 201 - count
                assert len(got) < count + 20
            # With the last stream the passes end: the one that meets the solo execution comes before that.
            await eventually(lambda turn=turn: backend.stats().reconciled >= turn)
            await plain.aclose()
            await mine.aclose()
            items = [done(namespace="ab"[number % 2]) for number in range(200)]


async def test_a_clock_that_was_an_hour_ahead_and_is_put_right(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reconciling finds after that is handed out, and nothing that was there before the stream."""
    hour = 3_600_000
    before = done(flow_id=None)
    async with ValkeyBackend(valkey.url, reconcile_interval=0.2) as backend:
        run_time = _clock_ahead(monkeypatch, backend, hour)
        await valkey.finish(before, skew_ms=hour - 600_000)
        async with ffc.subscribe(backend) as stream:
            run_time["ahead"] = 0
            item = done(flow_id=None)
            await asyncio.sleep(0.3)
            await valkey.finish(item)
            assert (await first(stream)).execution_id == item.execution_id


def _clock_ahead(monkeypatch: pytest.MonkeyPatch, backend: ValkeyBackend, ms: int) -> dict[str, int]:
    """The server's TIME, as this backend is told it, is ahead until it is put right."""
    state, make = {"ahead": ms}, backend._make_exchange

    async def made() -> Any:
        commands = await make()
        real = commands.execute

        async def execute(asked: Any) -> Any:
            replies = list(await real(asked))
            for index, command in enumerate(asked):
                if command[0] == "TIME":
                    time_of: Any = replies[index]
                    replies[index] = [b"%d" % (int(time_of[0]) + state["ahead"] // 1000), time_of[1]]
            return replies

        monkeypatch.setattr(commands, "execute", execute)
        return commands

    monkeypatch.setattr(backend, "_make_exchange", made)
    return state


async def test_each_kind_of_cause_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """While it is being mended; a hundred attempts of one kind are one line."""
    caplog.set_level(logging.DEBUG)
    state = ConnectionState("x", logger("ffcompletion.test"), None, Backoff())
    state.live()
    for _ in range(50):
        state.broken("gone", OSError("gone"))
        state.broken("refused", ffc.Unavailable("subscribe", "refused"))
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "gone" in line]) == 1
    assert len([line for line in lines if "refused" in line]) == 1
    assert isinstance(state.fault, ffc.Unavailable)
    state.live()
    assert state.fault is None


async def test_many_streams_share_one_connection(valkey: ValkeyWorld) -> None:
    """A hundred streams: one subscriber connection, and one to read keys."""
    async with valkey.backend() as backend:
        streams = [await backend.subscribe_completions() for _ in range(100)]
        assert await valkey.connections() == 2
        item = done()
        await valkey.announce(item)
        for stream in streams:
            assert (await first(stream)).execution_id == item.execution_id
            await stream.aclose()


async def test_loops_in_turn(valkey: ValkeyWorld) -> None:
    """Several event loops, one after the other, in threads: none is deaf."""

    def one_loop() -> object:
        async def work() -> object:
            async with ValkeyBackend(valkey.url) as backend, ffc.subscribe(backend) as stream:
                waiting = asyncio.ensure_future(first(stream, 8))
                while not waiting.done():
                    asyncio.run_coroutine_threadsafe(valkey.announce(done()), main).result(5)
                    await asyncio.wait({waiting}, timeout=0.05)
                return (await waiting).outcome

        return asyncio.run(work())

    main = asyncio.get_running_loop()
    for _ in range(3):
        assert await asyncio.to_thread(one_loop) == "success"
