"""Whoever gives up while a client of glide's is being made, or asked, leaves none behind: at whatever point that is."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
import types
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.connection import abort_client, make_client
from ffcompletion.backends.valkey.inbox import Inbox
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.session import Session
from tests.worlds import ValkeyWorld, done, eventually, first


@types.coroutine
def cancelled_at(point: int, work: Coroutine[Any, Any, object]) -> Generator[Any, Any, None]:
    """Do this work, in a task that is cancelled where it suspends for the so manieth time."""
    task = asyncio.current_task()
    assert task is not None
    came: Any = None
    thrown: BaseException | None = None
    for count in itertools.count(1):
        try:
            waits_for = work.send(came) if thrown is None else work.throw(thrown)
        except StopIteration:
            return
        if count == point:
            task.cancel()
        came = thrown = None
        try:
            came = yield waits_for
        except BaseException as exc:  # whatever it is, it is the work's
            thrown = exc


@contextmanager
def no_client_is_forgotten() -> Iterator[None]:
    """glide warns when the collector finds one that nobody has closed."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert not [str(each.message) for each in said if "GlideClient" in str(each.message)]


async def a_session(url: str) -> None:
    session = await Session.open(Options.from_url(url), Inbox())
    try:
        await session.check(5)
    finally:
        session.abort()


async def a_question(url: str) -> None:
    commands = Commands(Options.from_url(url))
    try:
        await commands.execute([("PING",)])
    finally:
        await commands.aclose()


async def a_subscription(url: str) -> None:
    async with ValkeyBackend(url, reconcile_interval=0.05) as backend:
        async with await backend.subscribe_completions():
            pass


async def a_password(url: str) -> None:
    async def password() -> str:
        await asyncio.sleep(0)
        return "anything"

    session = await Session.open(Options.from_url(url, username="default", password=password), Inbox())
    session.abort()


@pytest.mark.parametrize(
    ("work", "least"), [(a_session, 6), (a_question, 2), (a_subscription, 3), (a_password, 6)], ids=lambda each: each
)
async def test_cancelled_at_each_point(
    valkey: ValkeyWorld, work: Callable[[str], Coroutine[Any, Any, None]], least: int
) -> None:
    """Until it is through; nothing is held at the server after each time, nor left to the collector."""
    for point in itertools.count(1):
        with no_client_is_forgotten():
            through = await _through(cancelled_at(point, work(valkey.url)))
        await eventually(lambda: _none_is_held(valkey))
        if through:
            break
    assert point > least


async def _through(work: Awaitable[None]) -> bool:
    """Whether it was not cancelled. It is in no frame any more once this returns."""

    async def run() -> None:
        await work

    doing = asyncio.ensure_future(run())
    await asyncio.wait([doing])
    return not doing.cancelled() and doing.result() is None


async def _none_is_held(valkey: ValkeyWorld) -> bool:
    return await valkey.connections() == 0


def _held(url: str) -> int:
    """Clients of glide's at the server, asked by another one."""
    host, _, port = url.removeprefix("valkey://").partition(":")
    with socket.create_connection((host, int(port)), 10) as conn, conn.makefile("rb") as replies:
        conn.sendall(b"CLIENT LIST\r\n")
        length = int(replies.readline()[1:])
        return replies.read(length).count(b"lib-name=Glide")


def test_given_up_on_a_closed_loop_with_an_answer_outstanding(valkey_url: str) -> None:
    """Nobody can be told any more; the connection is gone at once all the same, not when the collector comes by."""
    before = _held(valkey_url)
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(make_client(Options.from_url(valkey_url)))
    asked = loop.create_task(client.custom_command(["BLPOP", "nothing", "0"]))
    loop.run_until_complete(asyncio.sleep(0.05))
    assert _held(valkey_url) == before + 1
    loop.close()
    with no_client_is_forgotten():
        abort_client(client)
        _wait_until_held(valkey_url, before)
        # Whoever asked is destroyed while it waits, which asyncio tells its loop.
        said: list[object] = []
        loop.set_exception_handler(lambda _, context: said.append(context["message"]))
        del asked, client
    assert said == ["Task was destroyed but it is pending!"]


def _wait_until_held(url: str, count: int) -> None:
    end = time.monotonic() + 30
    while _held(url) != count:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_left_to_the_collector_with_a_loop_that_is_closed(valkey_url: str) -> None:
    """In whatever order it takes what it finds, which is its own: a client is released once, and its connection gone."""
    before = _held(valkey_url)
    for turns in itertools.count(1):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        opening = loop.create_task(Session.open(Options.from_url(valkey_url), Inbox.__new__(Inbox)))
        for _ in range(turns):
            loop.call_soon(loop.stop)
            loop.run_forever()
        through = opening.done()
        if through:
            opening.result().abort()
        loop.close()
        del opening
        gc.collect()
        _wait_until_held(valkey_url, before)
        if through:
            break
    assert turns > 6


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_a_task_waits_in_when_its_loop_ends(valkey_url: str) -> None:
    """Dropped in the loop's last turns, when nothing of what releases it comes to its end: nothing of it stays."""
    before = _held(valkey_url)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        stream = await ValkeyBackend(valkey_url).subscribe_completions()
        held = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        assert not held.done()
        assert _held(valkey_url) > before

    for _ in range(2):
        asyncio.run(main())
        gc.collect()
        _wait_until_held(valkey_url, before)


async def test_wrong_credentials(valkey: ValkeyWorld) -> None:
    """``Unavailable``, and no password in it."""
    await valkey.command("ACL", "SETUSER", "known", "on", ">rIgHt", "allkeys", "allchannels", "allcommands")
    async with ValkeyBackend(valkey.url, username="known", password="wRoNg") as backend:
        with pytest.raises(ffc.Unavailable, match="credentials") as caught:
            await backend.subscribe_completions()
        assert "wRoNg" not in f"{caught.value} {caught.value.__cause__!r} {backend!r}"
        assert caught.value.__cause__ is not None


async def test_the_client_comes_back_within_half_a_second(valkey: ValkeyWorld) -> None:
    """``CLIENT KILL TYPE pubsub`` on a healthy server. Once of five times: other programs may keep the machine busy."""
    loop, took = asyncio.get_running_loop(), [60.0]
    while min(took) >= 0.5 and len(took) <= 5:
        async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
            await valkey.drop_connections()
            killed = loop.time()
            waiting = asyncio.ensure_future(first(stream))
            while not waiting.done():
                await valkey.announce(done())
                await asyncio.wait({waiting}, timeout=0.005)
            took.append(loop.time() - killed)
            await eventually(lambda backend=backend: backend.stats().reconnects == 1)
    assert min(took) < 0.5, took


async def test_a_consumer_s_glide_logger_is_left_alone(valkey: ValkeyWorld) -> None:
    """The library quietens glide only where nobody has set its logger up."""
    from glide import Logger, LogLevel

    Logger.set_logger_config(LogLevel.ERROR)
    before = Logger._instance  # type: ignore[attr-defined]  # glide's own
    async with valkey.backend() as backend, ffc.subscribe(backend):
        assert Logger._instance is before  # type: ignore[attr-defined]  # glide's own
