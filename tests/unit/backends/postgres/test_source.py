"""One stream's account of what it holds, while several bring something at once."""

from __future__ import annotations

import asyncio

from ffcompletion.backends.postgres.source import Source
from ffcompletion.backends.postgres.states import StreamState
from ffcompletion.delivery.hub import Selector
from ffcompletion.delivery.tenure import Leased
from tests.unit.backends.postgres.test_positions import Pages, Server


async def gone(source: Leased) -> None:
    """The backend's part in closing."""


async def test_nothing_is_found_for_a_stream_while_a_page_comes() -> None:
    """The page may turn out to be one result that takes all the room, though half of it was set aside while it joins."""
    server = Server()
    row = server.insert("a")
    server.visible[row[0]] = row
    server.admit([row[0]])
    pages = Pages(server, None)
    source = Source(server, server.hub, pages, Selector(None, results=True), server.buffer, gone, 0)
    assert source.room.alone
    source._read_ahead()
    reading = source._reading
    assert reading is not None
    while pages.waiting is None:
        await asyncio.sleep(0)
    assert source._standing.state is StreamState.JOINING
    assert source.room.fit([1]) == 0
    pages.answer(seen_early=True)
    await reading
    assert source.room.fit([1 << 30, 1]) == 1
    source.abort()
