"""A backend that keeps the contract, on a server that is an object. Its broken relatives override one thing each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.testing import Execution

RETENTION = 200
PROBE_S = 0.02


class Link:
    """A connection to the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.wake = asyncio.Event()
        self.dead = False

    async def changed(self) -> int:
        """The exchange's end, when it has moved. Raises what a driver would."""
        await self.wake.wait()
        self.wake.clear()
        if self.dead:
            raise ConnectionResetError("the connection was cut")
        return self.exchange.end

    async def ping(self) -> None:
        """Raises ``TimeoutError`` if nothing answers."""
        if self in self.exchange.muted:
            raise TimeoutError("no answer")

    def close(self) -> None:
        self.exchange.links.discard(self)


class Exchange:
    """The server: a log of the last few, connections that can be hurt, and the kit's announcer and injector."""

    def __init__(self) -> None:
        self.entries: deque[Execution] = deque(maxlen=RETENTION)
        self.end = 0
        self.links: set[Link] = set()
        self.muted: set[Link] = set()
        self.open = asyncio.Event()
        self.open.set()

    async def connect(self) -> Link:
        async with asyncio.timeout(1):
            await self.open.wait()
        link = Link(self)
        self.links.add(link)
        return link

    async def announce(self, *executions: Execution) -> None:
        for execution in executions:
            self.entries.append(execution)
            self.end += 1
        for link in self.links - self.muted:
            link.wake.set()
        await asyncio.sleep(0)

    async def connections(self) -> int:
        return len(self.links)

    async def disconnect(self) -> None:
        for link in tuple(self.links):
            link.dead = True
            link.wake.set()
        self.links.clear()
        await asyncio.sleep(0)

    async def mute(self) -> None:
        self.open.clear()
        self.muted |= self.links

    async def unmute(self) -> None:
        self.open.set()

    async def restart(self) -> None:
        await self.disconnect()


class RightStream:
    """A position in the exchange's log."""

    def __init__(self, backend: Right, position: int, wanted: ffc.CompletionFilter | None) -> None:
        self.backend = backend
        self.exchange = backend.exchange
        self.position = position
        self.seen = position
        self.wanted = wanted
        self.lost = 0
        self.closed = False
        self.ended = False
        self.ready = asyncio.Event()
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None

    # ── the connection's side ────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        while True:
            try:
                if self.link is None:
                    self.link = await self.exchange.connect()
                    self.reconnected()
                try:
                    async with asyncio.timeout(PROBE_S):
                        self.seen = await self.link.changed()
                    self.arrived()
                except TimeoutError:
                    await self.probe(self.link)
            except (ConnectionError, TimeoutError) as exc:
                if self.link is not None:
                    self.exchange.links.discard(self.link)
                    self.link = None
                if self.broken(exc):
                    return
                await asyncio.sleep(0.005)

    def reconnected(self) -> None:
        self.seen = self.exchange.end
        self.arrived()

    def arrived(self) -> None:
        self.ready.set()

    async def probe(self, link: Link) -> None:
        await link.ping()

    def broken(self, exc: BaseException) -> bool:
        return False

    # ── the consumer's side ──────────────────────────────────────────────────────────────────────────────────────

    def __aiter__(self) -> AsyncIterator[ffc.CompletionPayload]:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        while not self.closed:
            item = self.take()
            if item is not None:
                return item
            if self.ended:
                break
            self.ready.clear()
            await self.ready.wait()
        raise StopAsyncIteration

    def take(self) -> ffc.CompletionPayload | None:
        while self.position < self.seen:
            start = self.exchange.end - len(self.exchange.entries)
            if self.position < start:
                self.missed(start - self.position)
                self.position = start
                continue
            execution = self.exchange.entries[self.position - start]
            self.position += 1
            if self.admits(execution):
                return self.payload(execution)
        return None

    def missed(self, count: int) -> None:
        self.lost += count

    def admits(self, execution: Execution) -> bool:
        if self.wanted is None:
            return True
        key = self.wanted.tag_key
        try:
            return self.wanted.matches(execution.namespace, None if key is None else execution.tags.get(key))
        except Exception:
            return False

    def payload(self, execution: Execution) -> ffc.CompletionPayload:
        return ffc.CompletionPayload(execution.execution_id, execution.outcome, None, 1, execution.flow_id, self.here())

    def here(self) -> ffc.StreamCursor | None:
        return ffc.StreamCursor.stream(7, self.position)

    @property
    def cursor(self) -> ffc.StreamCursor | None:
        return self.here()

    def stats(self) -> ffc.StreamStats:
        held = self.seen - max(self.position, self.exchange.end - len(self.exchange.entries))
        return ffc.StreamStats(lost=self.lost, buffered=max(0, held))

    async def aclose(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.ready.set()
        self.backend.streams.discard(self)
        await self.release()

    async def release(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.link is not None:
            self.link.close()


class Right(ffc.CompletionBackend):
    """Keeps every clause."""

    Stream: type[RightStream] = RightStream

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.streams: set[Any] = set()
        self.closed = False

    @override
    async def subscribe_completions(self, /) -> Any:
        return await self.opened(None, self.exchange.end)

    @override
    async def subscribe_completions_filtered(self, filter: ffc.CompletionFilter, /) -> Any:
        return await self.opened(None if filter.is_noop() else filter, self.exchange.end)

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, filter: ffc.CompletionFilter | None = None, /
    ) -> Any:
        return await self.opened(filter, self.position(cursor))

    def position(self, cursor: ffc.StreamCursor) -> int:
        if cursor.is_empty:
            return self.exchange.end
        if cursor.is_beginning:
            return 0
        at = cursor.stream_position
        if at is None or at[0] != 7 or at[1] > self.exchange.end:
            raise ffc.Validation("cursor", "not one of ours")
        return at[1]

    async def opened(self, wanted: ffc.CompletionFilter | None, position: int) -> Any:
        if self.closed:
            raise ffc.Unavailable("subscribe", "closed")
        stream = self.Stream(self, position, wanted)
        await self.connected(stream)
        self.streams.add(stream)
        stream.task = asyncio.create_task(stream.run())
        return stream

    async def connected(self, stream: RightStream) -> None:
        try:
            stream.link = await self.exchange.connect()
        except TimeoutError as exc:
            raise ffc.Transport("exchange", "nobody there") from exc
        stream.seen = self.exchange.end

    async def aclose(self) -> None:
        self.closed = True
        for stream in tuple(self.streams):
            await stream.aclose()
