"""The listener's end: its socket is given back once nobody waits on it any more, or its number may be another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ffcompletion.backends.postgres.connection import Listener
from ffcompletion.backends.postgres.inbox import Inbox


class Wire:
    """What libpq holds."""

    socket = -1

    def __init__(self) -> None:
        self.waits = False
        self.finished = 0

    def finish(self) -> None:
        assert not self.waits, "somebody still waits on its socket"
        self.finished += 1


class Conn:
    """A connection on which nothing ever comes."""

    def __init__(self) -> None:
        self.pgconn = Wire()

    def add_notice_handler(self, handler: object) -> None: ...

    async def execute(self, *words: object, prepare: bool) -> None: ...

    async def notifies(self) -> AsyncGenerator[Any]:
        self.pgconn.waits = True
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.pgconn.waits = False


async def listening() -> tuple[Listener, Wire]:
    conn: Any = Conn()
    listener = Listener(conn, Inbox())
    await listener.start(20, pooled=False)
    await asyncio.sleep(0)
    assert conn.pgconn.waits
    return listener, conn.pgconn


async def test_aborted_while_it_listens() -> None:
    """At once, and not before its task has seen the end of it."""
    listener, wire = await listening()
    listener.abort()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (wire.finished, wire.waits) == (1, False)


async def test_closed_while_it_listens() -> None:
    listener, wire = await listening()
    await listener.aclose()
    assert (wire.finished, wire.waits) == (1, False)


def test_aborted_where_its_loop_is_closed() -> None:
    """Nobody can wait there any more."""
    listener, wire = asyncio.run(listening())
    listener.abort()
    assert wire.finished == 1
