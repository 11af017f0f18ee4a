"""What all clients of a process share: glide reads the answers to all of them from one pipe, on one loop, many at a time.

What is raised while it hands one over takes the rest with it, and so does leaving one loop for another: glide would go on
reading in the middle of an answer, and take what it finds there for an address. All streams of the process end, or it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from importlib import import_module
from typing import Final, cast, final

from typing_extensions import override

__all__ = ["Answering", "take_over"]

# None of this is public; where glide does it in another way, nothing is done here.
_shared: Final = vars(import_module("glide.glide_client"))


def take_over(loop: asyncio.AbstractEventLoop) -> None:
    """Read on, on this loop, where the one that read has been closed. glide would begin anew, wherever it is by then."""
    if not _is_abandoned():
        return
    with _shared["_async_pipe_lock"]:
        # It may have been another thread's by now.
        if _is_abandoned():
            loop.add_reader(_shared["_async_pipe_read_fd"], _shared["_on_async_pipe_readable"])
            _shared["_async_pipe_loop"] = loop


def _is_abandoned() -> bool:
    owner = cast("asyncio.AbstractEventLoop | None", _shared.get("_async_pipe_loop"))
    # A child of a fork gets a pipe of its own.
    return owner is not None and owner.is_closed() and _shared.get("_async_pipe_init_pid") == os.getpid()


@final
class Answering:
    """A client's loop, as glide uses it where it reads on another one; it may have been closed meanwhile."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """Nothing where nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def is_closed(self) -> bool:
        """As the loop says."""
        return self._loop.is_closed()

    @override
    def __eq__(self, other: object) -> bool:
        return other is self._loop

    @override
    def __hash__(self) -> int:
        return hash(self._loop)
