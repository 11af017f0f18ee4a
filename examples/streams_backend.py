"""A third-party backend: completions of jobs whose workers write them to a Valkey (or Redis) stream.

    XADD jobs:done * id '{fp:7}:550e8400-…' outcome success flow a76a8496-… namespace tenant-a tags '{"k": "v"}'

Written against ``docs/writing-a-backend.md`` alone. A stream of completions is a position in the server's stream, so
nothing is buffered and nothing can be lost while the server keeps it; a connection that fails is replaced.

    python examples/streams_backend.py localhost 6379
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from glide import AdvancedGlideClientConfiguration, GlideClient, GlideClientConfiguration, GlideError, NodeAddress

import ffcompletion as ffc

KEY = "jobs:done"
# Cursors of this backend begin with a byte of its own, so that no other takes them for its own, nor it theirs.
CURSORS = ffc.CursorFamily(0xA7)
# The server answers within this, with completions or without.
BLOCK_MS = 200
# Without an answer for this long the connection is dead, whatever it says.
ANSWER_MS = 1_500


class Connection:
    """One client, made anew when it fails."""

    def __init__(self, host: str, port: int) -> None:
        self._config = GlideClientConfiguration(
            [NodeAddress(host, port)],
            request_timeout=ANSWER_MS,
            lazy_connect=True,  # a server that is mute must not hold up the loop
            advanced_config=AdvancedGlideClientConfiguration(connection_timeout=500),
        )
        self._client: GlideClient | None = None

    async def ask(self, *words: str) -> Any:
        """The reply. Raises ``GlideError``, and then the next call connects anew."""
        try:
            client = self._client = self._client or await GlideClient.create(self._config)
            return await client.custom_command(list(words))
        except GlideError:
            await self.close()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(GlideError):
                await client.close()


class JobStream:
    """Completions after a position."""

    def __init__(self, connection: Connection, after: str, wanted: ffc.CompletionFilter | None) -> None:
        self._connection = connection
        self._after = after
        self._cursor = self._at(after)
        self._wanted = None if wanted is None or wanted.is_noop() else wanted
        self._page: deque[ffc.CompletionPayload] = deque()
        self._closed = asyncio.Event()
        # Reading goes on when a consumer gives up waiting, so that what it brings is not lost with it.
        self._reading: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[ffc.CompletionPayload]:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        while not self._closed.is_set():
            if self._page:
                payload = self._page.popleft()
                self._cursor = payload.cursor or self._cursor
                return payload
            self._reading = self._reading or asyncio.create_task(self._read())
            await asyncio.wait({self._reading})
            self._reading = None
        raise StopAsyncIteration

    @property
    def cursor(self) -> ffc.StreamCursor:
        """Where to resume: behind what was yielded, not behind what was read."""
        if not self._closed.is_set() and not self._page:
            # Nothing that was read is left, so that what the filter did not admit counts as well.
            self._cursor = self._at(self._after)
        return self._cursor

    @staticmethod
    def _at(position: str) -> ffc.StreamCursor:
        ms, seq = map(int, position.split("-"))
        return CURSORS.at(ms << 64 | seq)

    async def _read(self) -> None:
        """One page, which is at most a hundred; returns without any when the stream was closed."""
        delay = 0.01
        while not self._closed.is_set() and not self._page:
            try:
                reply = await self._connection.ask(
                    "XREAD", "COUNT", "100", "BLOCK", str(BLOCK_MS), "STREAMS", KEY, self._after
                )
            except GlideError:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._closed.wait()
                delay = min(delay * 2, 1.0)
                continue
            delay = 0.01
            for position, fields in (reply or {}).get(KEY.encode(), {}).items():
                self._after = position.decode()
                payload = self._decided(self._after, fields)
                if payload is not None:
                    self._page.append(payload)

    def _decided(self, position: str, fields: Sequence[Sequence[bytes]]) -> ffc.CompletionPayload | None:
        """The payload, if it is one and the filter admits it."""
        try:
            entry = {name.decode(): value.decode() for name, value in fields}
            tags = json.loads(entry.get("tags", "{}"))
            payload = ffc.CompletionPayload(
                ffc.ExecutionId(entry["id"]),
                entry.get("outcome", ""),
                flow_id=ffc.FlowId(entry["flow"]) if entry.get("flow") else None,
                cursor=self._at(position),
            )
        except (KeyError, ValueError, ffc.Validation):
            return None  # somebody wrote something else there: not ours to crash on
        if self._wanted is None:
            return payload
        key = self._wanted.tag_key
        try:
            admitted = self._wanted.matches(entry.get("namespace"), None if key is None else tags.get(key))
        except Exception:  # noqa: BLE001  # somebody else's filter: what it raises is a no
            admitted = False
        return payload if admitted else None

    async def aclose(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._page.clear()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._connection.close()


class JobStreamsBackend:
    """A backend by structure: nothing is inherited."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: list[JobStream] = []
        self._closed = False

    async def subscribe_completions(self) -> JobStream:
        return await self._open(None, None)

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> JobStream:
        return await self._open(wanted, None)

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, wanted: ffc.CompletionFilter | None = None, /
    ) -> JobStream:
        return await self._open(wanted, cursor)

    async def _open(self, wanted: ffc.CompletionFilter | None, cursor: ffc.StreamCursor | None) -> JobStream:
        if self._closed:
            raise ffc.Unavailable("subscribe", "the backend is closed")
        connection = Connection(self._host, self._port)
        try:
            # Also proves that the server is there: when this returns, the position is known and the stream is live.
            newest = await connection.ask("XREVRANGE", KEY, "+", "-", "COUNT", "1")
        except GlideError as exc:
            raise ffc.Transport(f"valkey at {self._host}:{self._port}", str(exc)) from exc
        last = next(iter(newest or {}), b"0-0").decode()
        try:
            position = last if cursor is None else self._position(cursor, last)
        except ffc.Validation:
            await connection.close()
            raise
        stream = JobStream(connection, position, wanted)
        self._streams.append(stream)
        return stream

    @staticmethod
    def _position(cursor: ffc.StreamCursor, last: str) -> str:
        position = CURSORS.position(cursor)
        if position is None:
            return last
        ms, seq = divmod(position, 1 << 64)
        newest = [int(part) for part in last.split("-")]
        if [ms, seq] > newest:
            raise ffc.Validation("cursor", "it is from the future of this stream")
        return f"{ms}-{seq}"

    async def aclose(self) -> None:
        self._closed = True
        for stream in self._streams:
            await stream.aclose()


async def main(host: str, port: int) -> None:
    backend = JobStreamsBackend(host, port)
    ffc.assert_completion_backend(backend)
    async with ffc.subscribe(backend) as stream:
        print("listening", flush=True)
        async for completion in stream:
            print(completion.execution_id, completion.outcome, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
