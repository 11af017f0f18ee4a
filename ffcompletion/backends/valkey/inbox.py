"""Announcements that have arrived and wait to be read. Bounded, by number and by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final, final

from ffcompletion.backends.valkey.wire import LONGEST

__all__ = ["Inbox"]

# Should the loop be held up: some 25 MB as the engine writes them.
_MOST: Final = 100_000
_MOST_BYTES: Final = 32 << 20
# Taken at a time: while they are read, what arrives next is held by glide, which has no bound.
_BYTES_AT_ONCE: Final = 256 << 10
# On the average, ten times what the engine writes.
_HEAVY: Final = 1_500


@final
class Inbox:
    """What the subscriber's callback puts, on whatever thread that runs, one task takes, on the loop this was made on.

    When it is full the oldest go. Whoever waits looks at what is there, so no wake-up can be missed.
    """

    __slots__ = (
        "_bytes_put",
        "_bytes_taken",
        "_dropped",
        "_event",
        "_loop",
        "_messages",
        "_most",
        "_most_bytes",
        "_woken",
        "heavy",
    )

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._messages: deque[bytes] = deque()
        # Each number is changed on one side only: the first and the third where it is put, the second where it is taken.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._woken = False
        self.heavy: bool = False
        """Whether what was taken last was much larger than announcements are."""

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def dropped(self) -> int:
        """How many went unread, so far."""
        return self._dropped

    def put(self, message: bytes) -> None:
        """An announcement has arrived. Of one that is too long nothing is kept: no more is read of an empty one."""
        if len(message) > LONGEST:
            message = b""
        self._messages.append(message)
        self._bytes_put += len(message)
        if self._woken:
            # It waits for a turn of the loop; only then can there be too many.
            if len(self._messages) > self._most or self._bytes_put - self._bytes_taken > self._most_bytes:
                self._shed()
        else:
            self._woken = True
            if self._loop is asyncio._get_running_loop():  # pyright: ignore[reportPrivateUsage]  # the documented call raises
                self._event.set()
            else:
                # glide's pipe belongs to the first loop that used it, which may be another thread's.
                with suppress(RuntimeError):  # nobody will read it any more
                    self._loop.call_soon_threadsafe(self._event.set)

    def _shed(self) -> None:
        messages = self._messages
        while len(messages) > self._most or (
            len(messages) > 1 and self._bytes_put - self._bytes_taken > self._most_bytes
        ):
            try:
                oldest = messages.popleft()
            except IndexError:
                return  # taken meanwhile, on another thread
            self._bytes_put -= len(oldest)
            self._dropped += 1

    def take(self, most: int) -> list[bytes]:
        """The oldest, so many at the most; fewer if they are large."""
        messages = self._messages
        held = self._bytes_put - self._bytes_taken
        if held > _BYTES_AT_ONCE:
            # As they are on the average: each need not be looked at.
            most = min(most, max(1, _BYTES_AT_ONCE * len(messages) // held))
        taken: list[bytes] = []
        oldest, keep = messages.popleft, taken.append
        try:
            for _ in range(min(most, len(messages))):
                keep(oldest())
        except IndexError:
            pass  # some were dropped meanwhile, on another thread
        size = sum(map(len, taken))
        self._bytes_taken += size
        self.heavy = size > _HEAVY * len(taken) or b"" in taken
        return taken

    async def ready(self) -> None:
        """Wait until there is something to take."""
        while not self._messages:
            self._event.clear()
            self._woken = False
            # Looked at once more, now that the next one to come will wake.
            if not self._messages:
                await self._event.wait()
