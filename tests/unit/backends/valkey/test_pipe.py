"""One pipe for all loops: whichever is left reads on, and who is gone is answered nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from ffcompletion.backends.valkey import pipe
from ffcompletion.backends.valkey.pipe import Answering, take_over


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """As glide keeps it: a pipe, and a loop that reads it and has been closed."""
    ours, theirs = os.pipe()
    owner = asyncio.new_event_loop()
    owner.close()
    read: list[bytes] = []
    kept = {
        "_async_pipe_lock": threading.Lock(),
        "_async_pipe_loop": owner,
        "_async_pipe_init_pid": os.getpid(),
        "_async_pipe_read_fd": ours,
        "_on_async_pipe_readable": lambda: read.append(os.read(ours, 100)),
        "write": theirs,
        "read": read,
    }
    monkeypatch.setattr(pipe, "_shared", kept)
    yield kept
    os.close(ours)
    os.close(theirs)


async def test_what_a_closed_loop_has_not_read_is_read_by_the_next(shared: dict[str, object]) -> None:
    """All of it, and by one alone."""
    loop, theirs = asyncio.get_running_loop(), shared["write"]
    assert isinstance(theirs, int)
    os.write(theirs, b"written before")
    take_over(loop)
    assert shared["_async_pipe_loop"] is loop
    with closing(asyncio.new_event_loop()) as another:
        take_over(another)
    assert shared["_async_pipe_loop"] is loop
    async with asyncio.timeout(5):
        while not shared["read"]:
            await asyncio.sleep(0)
    assert shared["read"] == [b"written before"]
    ours = shared["_async_pipe_read_fd"]
    assert isinstance(ours, int)
    assert loop.remove_reader(ours)


@pytest.mark.parametrize("name", ["_async_pipe_loop", "_async_pipe_init_pid"])
async def test_what_is_not_known_is_left_to_glide(shared: dict[str, object], name: str) -> None:
    """Nobody has read yet; a process that was forked; a glide that does it otherwise."""
    for value in (None, *([os.getppid()] if name.endswith("pid") else [])):
        shared[name] = value
        take_over(asyncio.get_running_loop())
        assert shared["_async_pipe_loop"] is not asyncio.get_running_loop()
    del shared[name]
    take_over(asyncio.get_running_loop())
    assert shared.get("_async_pipe_loop") is not asyncio.get_running_loop()


async def test_a_closed_loop_is_answered_nothing() -> None:
    """An open one is; and each is as the loop that it stands for."""
    told: list[int] = []
    loop, closed = asyncio.get_running_loop(), asyncio.new_event_loop()
    closed.close()
    for each in (loop, closed):
        answering = Answering(each)
        assert answering == each
        assert answering != asyncio.new_event_loop
        assert hash(answering) == hash(each)
        assert answering.is_closed() is each.is_closed()
        answering.call_soon_threadsafe(told.append, 1)
    await asyncio.sleep(0)
    assert told == [1]
