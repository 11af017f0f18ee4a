"""A TCP proxy in a thread of its own that can freeze, cut and refuse: for faults that a server does not produce."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine, Iterator
from typing import Self

from typing_extensions import override


class _Silent(asyncio.StreamReaderProtocol):
    """Reads nothing until TLS is begun: what a client has said by then would never come to it."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        super().connection_made(transport)


class Proxy:
    """Between a client and ``target`` (host and port, or a Unix socket's path). ``tls``: what clients have to speak."""

    def __init__(self, target: tuple[str, int] | str, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing: asyncio.Event
        self._refusing = False
        self.port = 0
        self.accepted = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def _call(self, work: Coroutine[object, object, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        kind = asyncio.StreamReaderProtocol if self._tls is None else _Silent
        self._server = await self._loop.create_server(
            lambda: kind(asyncio.StreamReader(), self._accept), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # At once: a task that is cancelled before its first step does nothing.
        self.accepted += 1
        self._writers.add(writer)
        serving = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        if self._tls is not None:
            try:
                # Here, not by the server: what is under way is ours to end, and no handshake outlives the proxy.
                await writer.start_tls(self._tls)
            except OSError:
                writer.transport.abort()
                # Its error is known; nobody is to be told of it again.
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return
        # While frozen a connection is accepted, as the kernel does, and nothing ever comes of it.
        await self._flowing.wait()
        try:
            if isinstance(self._target, str):
                there, out = await asyncio.open_unix_connection(self._target)
            else:
                there, out = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(out)
        await asyncio.gather(self._pipe(reader, out), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            # With TLS it waits for the other side's goodbye; it stays among those that are cut in the end.
            writer.close()

    def freeze(self) -> None:
        """Half-open: connections stay, nothing passes, new ones get no answer."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def thaw(self) -> None:
        """Let everything held pass."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self) -> None:
        """Drop every connection; new ones are welcome."""
        self._call(self._cut())

    def lead_to(self, target: tuple[str, int] | str) -> None:
        """Where connections lead from now on; those that there are stay."""
        self._target = target

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once."""
        self._refusing = refusing

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _stop(self) -> None:
        self._server.close()
        # A client that tries again and again may have come in this very moment: it is nobody's to close before it has a
        # transport, and is served when it has one.
        for _ in range(3):
            await asyncio.sleep(0)
            await self._cut()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._cut()
        # Aborted transports close in the next turn of the loop.
        await asyncio.sleep(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@contextlib.contextmanager
def proxied(target: tuple[str, int] | str) -> Iterator[Proxy]:
    """A running proxy."""
    with Proxy(target) as proxy:
        yield proxy
