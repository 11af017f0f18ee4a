"""One stream of the backend for all clients that see the same: read, named and encoded once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, final

from ffcompletion.consumers.shards import position_of
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream, ExecutionReader, Subscription
from ffcompletion.foreign.logs import logger
from ffcompletion.web.frames import completion_frame, id_frame
from ffcompletion.web.outbox import Outbox
from ffcompletion.web.turns import Share

__all__ = ["Channel"]

log: Final = logger("ffcompletion.web")

_BATCH: Final = 256
# Digits of an event's number.
_LONGEST: Final = 20
# A tenant's name is for show: it must not hold up the completion for long.
_NAMES_S: Final = 2.0
# What is stored is read for so long at the most before others of the same grant have a turn.
_TURN_S: Final = 1.0
# So soon it is noticed that nothing is left of it.
_LOOK_S: Final = 0.01


@final
class Channel:
    """Reads a stream and hands each frame to every client's outbox.

    An event's id is ``cursor.channel.number``: the cursor resumes anywhere, also after a restart; channel and number
    say exactly where a client stood that comes back to the same channel, which then repeats nothing.

    ``share``: it has one client, reads no faster than that one takes, and has no more than its part of a grant's share.
    """

    def __init__(
        self,
        stream: CompletionStream,
        *,
        buffer_size: int,
        resumable: bool,
        share: Share | None,
        namespace: str | None,
        reader: ExecutionReader | None,
    ) -> None:
        self._stream = stream
        self._limit = buffer_size
        self._share = share
        self._counting = stream if isinstance(stream, Subscription) else None
        self._namespace = namespace
        self._reader = reader
        self._nonce = secrets.token_hex(4)
        self._number = 0
        start = position_of(stream)
        self.resumable = resumable
        # The tail is no place to come back to: what happens meanwhile would be missed.
        self._last_cursor = "" if start is None or start.is_empty else str(start)
        # Whoever comes back to one that is another's alone does not find it.
        self._recent: deque[bytes] = deque(maxlen=buffer_size if share is None else 0)
        self._outboxes: dict[Outbox, None] = {}
        self._arrived: deque[CompletionPayload] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._read(), name="ffcompletion-web-read"),
            asyncio.create_task(self._distribute(), name="ffcompletion-web-distribute"),
        ]

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._outboxes)

    @property
    def ended(self) -> bool:
        """Whether its stream is over, which only the backend's end can bring about."""
        return any(task.done() for task in self._tasks)

    def join(self, last_id: str | None = None) -> Outbox | None:
        """A client's outbox. ``last_id``: what it had last; None is returned where that is not remembered here."""
        missed: Sequence[bytes] = ()
        if last_id is not None:
            _, nonce, number = (*last_id.split("."), "", "")[:3]
            # Digits without end are no number of ours, and `int` refuses them.
            known = nonce == self._nonce and number.isdecimal() and len(number) <= _LONGEST
            behind = self._number - int(number) if known else -1
            if not 0 <= behind <= len(self._recent):
                return None
            missed = tuple(self._recent)[len(self._recent) - behind :]
        outbox = Outbox(max(self._limit, len(missed) + 1), lossy=not self.resumable)
        if self.resumable and self._last_cursor and last_id is None:
            outbox.put(id_frame(f"{self._last_cursor}.{self._nonce}.{self._number}"))
        for frame in missed:
            outbox.put(frame)
        if self.ended:
            outbox.end()
        self._outboxes[outbox] = None
        return outbox

    def leave(self, outbox: Outbox) -> None:
        """Idempotent."""
        outbox.end()
        self._outboxes.pop(outbox, None)

    async def _read(self) -> None:
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    if self._share is not None and self._catching_up():
                        await self._has_room()
                        await self._read_stored(self._share)
                    for _ in range(_BATCH):
                        await self._has_room()
                        await self._take()
        except EngineError as exc:
            # A contract-abiding stream never does; its clients come back and are told by the subscribe call.
            log.warning("web: a stream ended with %s", exc)
        finally:
            self._leave_all()

    async def _read_stored(self, share: Share) -> None:
        clock = asyncio.get_running_loop().time
        while self._catching_up() and len(self._arrived) < _BATCH:
            async with share.turn():
                end = clock() + _TURN_S
                while self._catching_up() and len(self._arrived) < _BATCH and clock() < end:
                    # A wait that is given up loses nothing.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            while len(self._arrived) < _BATCH:
                                await self._take()

    def _catching_up(self) -> bool:
        return self._counting is not None and self._counting.stats().catching_up

    async def _has_room(self) -> None:
        while len(self._arrived) >= _BATCH:
            self._room.clear()
            await self._room.wait()

    async def _take(self) -> None:
        self._arrived.append(await anext(self._stream))
        self._news.set()

    def _leave_all(self) -> None:
        for outbox in tuple(self._outboxes):
            self.leave(outbox)

    async def _distribute(self) -> None:
        try:
            await self._distribute_on()
        except Exception:  # a backend of somebody's own may raise anything
            log.exception("web: a stream cannot be handed on; its clients come back")
        finally:
            # Whoever still waited here would do so for ever.
            self._leave_all()

    async def _distribute_on(self) -> None:
        while True:
            while not self._arrived:
                self._news.clear()
                await self._news.wait()
            batch = tuple(self._arrived)
            self._arrived.clear()
            self._room.set()
            now_ms = time.time_ns() // 1_000_000
            names = await self._names(batch)
            for completion, name in zip(batch, names, strict=True):
                if self._share is not None:
                    await self._share.step()
                    for outbox in tuple(self._outboxes):
                        await outbox.room()
                self._hand_out(completion, name, now_ms)

    def _hand_out(self, completion: CompletionPayload, namespace: str | None, now_ms: int) -> None:
        position = None
        if self.resumable and completion.cursor is not None:
            self._number += 1
            self._last_cursor = str(completion.cursor)
            position = f"{self._last_cursor}.{self._nonce}.{self._number}"
        frame = completion_frame(completion, position, now_ms, namespace)
        if position is not None:
            self._recent.append(frame)
        for outbox in tuple(self._outboxes):
            outbox.put(frame)
            if outbox.ended:
                self._outboxes.pop(outbox, None)

    async def _names(self, batch: Sequence[CompletionPayload]) -> Sequence[str | None]:
        if self._namespace is not None or self._reader is None:
            return [self._namespace] * len(batch)
        try:
            async with asyncio.timeout(_NAMES_S):
                found = await self._reader.describe_executions([completion.execution_id for completion in batch])
        except (EngineError, TimeoutError):
            return [None] * len(batch)
        return [None if snapshot is None else snapshot.namespace for snapshot in found]

    async def aclose(self) -> None:
        """End every client's stream and close the backend's."""
        self._leave_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        with contextlib.suppress(EngineError):
            await self._stream.aclose()
