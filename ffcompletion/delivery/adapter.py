"""What every networked adapter does alike: start with the first stream, stop with the last, close in bounded time."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.link import Link

__all__ = ["Adapter", "Closable"]


class Closable(Protocol):
    """One open stream, as its backend sees it."""

    def close(self) -> None:
        """End the stream; idempotent."""
        ...

    async def released(self) -> None:
        """Wait, for a bounded time, until what it held is released."""
        ...


class Adapter(ABC):
    """Base of the networked backends; not part of the public contract."""

    def __init__(self, link: Link, setup_s: float) -> None:
        self._link = link
        self._setup_s = setup_s
        self._feeds: set[Closable] = set()
        # Starting and stopping take turns, so that a stream closed while another opens stops nothing it needs.
        self._turn: asyncio.Lock | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    @abstractmethod
    async def _stop(self) -> None:
        """Release everything on the server, within about a second."""

    @asynccontextmanager
    async def _setting_up(self) -> AsyncGenerator[None]:
        """Around everything that a subscribe call does with the server. Raises ``TimeoutError`` after the limit."""
        self._check_usable("subscribe")
        turn = self._turn = self._turn or asyncio.Lock()
        try:
            async with asyncio.timeout(self._setup_s), turn:
                yield
        finally:
            # Set-up failed, or the other streams were closed meanwhile.
            await self._release_if_unused()

    @asynccontextmanager
    async def _asking(self, op: str) -> AsyncGenerator[None]:
        """Around a question to the server that needs no stream. Raises ``TimeoutError`` after the limit."""
        self._check_usable(op)
        async with asyncio.timeout(self._setup_s):
            yield

    def _check_usable(self, op: str) -> None:
        if self._link.state is BackendState.CLOSED:
            raise Unavailable(op, "the backend is closed")
        if os.getpid() != self._pid:
            raise Unavailable(op, "the backend was made before fork(); make a new one in the child process")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._feeds and self._loop is not None and not self._loop.is_closed():
                raise Unavailable(op, "the backend is in use on another event loop; make one for each loop")
            self._loop = loop
            self._turn = None
            self._releasing = None

    async def _closed(self, feed: Closable) -> None:
        self._feeds.discard(feed)
        await self._release_if_unused()

    async def _release_if_unused(self) -> None:
        if self._releasing is None and self._unused and self._turn is not None and not self._turn.locked():
            # In a task of its own: whoever closes the last stream may be cancelled, and half a stop is none.
            self._releasing = asyncio.create_task(self._release(self._turn), name="ffcompletion-release")
        # A subscribe call that is under way looks after this itself when it ends.
        if self._releasing is not None:
            await asyncio.shield(self._releasing)

    async def _release(self, turn: asyncio.Lock) -> None:
        try:
            async with turn:
                if self._unused:
                    await self._stop()
                    self._link.idle()
        finally:
            self._releasing = None

    @property
    def _unused(self) -> bool:
        return not self._feeds and self._link.state not in (BackendState.IDLE, BackendState.CLOSED)

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ExecutionSnapshot | None:
        """The execution as stored now, or None if there is no record of it. ``result``: fetch it as well.

        Raises ``Validation`` for a malformed id, ``Transport`` or ``Unavailable`` if the server cannot be asked.
        """
        (found,) = await self.describe_executions([execution_id], result=result)
        return found

    @abstractmethod
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The same for many, in one exchange with the server; one answer for each id, in order."""

    async def aclose(self) -> None:
        """Close every stream and release everything on the server, within about a second. Idempotent."""
        if os.getpid() != self._pid:
            return
        for feed in tuple(self._feeds):
            feed.close()
        for feed in tuple(self._feeds):
            await feed.released()
        self._link.closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
