"""What waits for one client: bounded, so that a slow one costs its own buffer and nothing else."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, final

from ffcompletion.web.frames import event

__all__ = ["Outbox"]

# In one piece; the server holds it until the client has taken it.
_PIECE: Final = 256 << 10


@final
class Outbox:
    """Frames for one client. ``lossy``: a full one forgets its oldest and says so; otherwise it ends, to be resumed."""

    def __init__(self, limit: int, *, lossy: bool) -> None:
        self._frames: deque[bytes] = deque()
        self._limit = limit
        self._lossy = lossy
        self._lost = 0
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self.ended: bool = False
        """Nothing more will come; what is left may still be taken."""
        self.overflowed: bool = False

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes) -> None:
        """Never waits."""
        if self.ended:
            return
        if len(self._frames) >= self._limit:
            self.overflowed = True
            if not self._lossy:
                # What it has not been sent, it gets when it comes back with the id of the last that it was.
                self._frames.clear()
                self.end()
                return
            self._frames.popleft()
            self._lost += 1
        self._frames.append(frame)
        self._changed.set()

    def end(self) -> None:
        """Idempotent."""
        self.ended = True
        self._changed.set()
        self._taken.set()

    def take(self) -> bytes:
        """All that waits, moved out, in one piece; of frames beyond all measure, some of it."""
        frames: list[bytes] = []
        size = 0
        while self._frames and size < _PIECE:
            frames.append(self._frames.popleft())
            size += len(frames[-1])
        taken = b"".join(frames)
        self._taken.set()
        if self._lost:
            taken = event("lost", {"count": self._lost}) + taken
            self._lost = 0
        return taken

    async def ready(self, seconds: float) -> None:
        """Until there is something to take, it has ended, or the time is up."""
        if self._frames or self.ended:
            return
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def room(self) -> None:
        """Until one more can be put, or it has ended."""
        while len(self._frames) >= self._limit and not self.ended:
            self._taken.clear()
            await self._taken.wait()
