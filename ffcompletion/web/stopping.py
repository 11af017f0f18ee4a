"""Noticing that the web server wants to stop: it waits for its connections first, so they have to end by themselves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, final

__all__ = ["Stopping"]

_LOOK_EVERY_S: Final = 0.1


def _server_is_stopping() -> bool:
    """Uvicorn's server object holds the signal's handler, and says so; there is no event in ASGI for it."""
    for sign in (signal.SIGTERM, signal.SIGINT):
        server: object = getattr(signal.getsignal(sign), "__self__", None)
        if getattr(server, "should_exit", False) is True:
            return True
    return False


@final
class Stopping:
    """A future of the running loop that is done once everything has to end."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._users = 0
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether nothing new is to begin."""
        return self._stopped or _server_is_stopping()

    def stop(self) -> None:
        """From now on; on the loop's thread. Idempotent."""
        self._stopped = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    @contextmanager
    def watched(self) -> Generator[asyncio.Future[None]]:
        """The future, looked after while somebody uses it."""
        loop = asyncio.get_running_loop()
        if self._future is None or self._future.get_loop() is not loop:
            self._future, self._timer, self._users = loop.create_future(), None, 0
        future = self._future
        self._users += 1
        if self._timer is None:
            self._look(loop, future)
        try:
            yield future
        finally:
            self._users -= 1
            if not self._users and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
        if self.stopped:
            self._timer = None
            if not future.done():
                future.set_result(None)
            return
        self._timer = loop.call_later(_LOOK_EVERY_S, self._look, loop, future)
