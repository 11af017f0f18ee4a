"""What the listening connection has heard, until somebody looks: level-triggered, bounded, and no more than hints."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, final

__all__ = ["Inbox"]

# Rows are read by position; only an id far below it needs its announcement. More of those than this come with a load
# that has the outbox read all the time.
_MOST: Final = 10_000
# A bigint has no more digits: anything longer is somebody else's, and no more than a wake-up.
_MOST_DIGITS: Final = 20


@final
class Inbox:
    """Filled by the listener, emptied by the supervisor; ``changed`` is set whenever there may be something to do."""

    __slots__ = ("_announced", "_echoes", "changed", "lost")

    def __init__(self) -> None:
        self.changed: asyncio.Event = asyncio.Event()
        """Set by whoever changes something; cleared by whoever is about to look."""
        self.lost: BaseException | None = None
        """Why nothing is heard any more, once the listener is gone."""
        self._announced: deque[str] = deque(maxlen=_MOST)
        self._echoes: deque[str] = deque(maxlen=_MOST)

    def announced(self, payload: str) -> None:
        """A notification on the engine's channel."""
        if len(payload) <= _MOST_DIGITS:
            self._announced.append(payload)
        self.changed.set()

    def echoed(self, nonce: str) -> None:
        """A notification on our own channel."""
        self._echoes.append(nonce)
        self.changed.set()

    def ended(self, why: BaseException) -> None:
        """Nothing comes any more."""
        self.lost = why
        self.changed.set()

    def take_announced(self) -> list[str]:
        """What was announced since the last look."""
        taken = list(self._announced)
        self._announced.clear()
        return taken

    def take_echoes(self) -> list[str]:
        """The echoes since the last look."""
        taken = list(self._echoes)
        self._echoes.clear()
        return taken

    @property
    def pending(self) -> bool:
        """Whether something was announced that nobody has taken."""
        return bool(self._announced)

    async def echo(self) -> None:
        """Wait until any echo has come; it is taken."""
        while not self._echoes:
            self.changed.clear()
            await self.changed.wait()
            if self.lost is not None:
                return
        self._echoes.clear()
