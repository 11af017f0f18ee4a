"""Noticing that the web server wants to stop."""

from __future__ import annotations

import asyncio
import signal

import pytest

from ffcompletion.web import stopping
from ffcompletion.web.stopping import Stopping


class Server:
    """As uvicorn has it: its method handles the signal."""

    should_exit = False

    def handle_exit(self, *_: object) -> None: ...


async def test_whoever_watches_is_told_at_once_that_it_is_stopped() -> None:
    """Also who comes later, and without a look at any clock."""
    door = Stopping()
    with door.watched() as one, door.watched() as two:
        assert one is two
        assert not one.done()
        door.stop()
        door.stop()
        assert one.done()
    assert door.stopped
    with door.watched() as late:
        assert late.done()


async def test_a_server_that_is_stopping_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    server, door = Server(), Stopping()
    monkeypatch.setattr(signal, "getsignal", lambda _: server.handle_exit)
    monkeypatch.setattr(stopping, "_LOOK_EVERY_S", 0.001)
    with door.watched() as future:
        assert not door.stopped
        server.should_exit = True
        await asyncio.wait_for(future, 20)
    assert door.stopped


def test_each_loop_has_its_own() -> None:
    door = Stopping()

    async def watch() -> None:
        with door.watched() as future:
            assert future.get_loop() is asyncio.get_running_loop()

    for _ in range(2):
        asyncio.run(watch())
