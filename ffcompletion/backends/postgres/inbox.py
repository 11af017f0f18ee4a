"""What the listening connection has heard, until somebody looks: level-triggered, bounded, and no more than hints."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, final

from ffcompletion.backends.postgres.announced import Announced, Hints

__all__ = ["Inbox"]

# Anybody may notify the channel.
_MOST: Final = 100


@final
class Inbox:
    """Filled by the listener, emptied by the supervisor; ``changed`` is set whenever there may be something to do."""

    __slots__ = ("_announced", "_echoes", "changed", "lost", "received")

    def __init__(self) -> None:
        self.changed: asyncio.Event = asyncio.Event()
        """Set by whoever changes something; cleared by whoever is about to look."""
        self.lost: BaseException | None = None
        """Why nothing is heard any more, once the listener is gone."""
        self.received: int = 0
        """How many notifications have come: something comes, whatever it is."""
        self._announced = Announced()
        self._echoes: deque[str] = deque(maxlen=_MOST)

    def announced(self, payload: str) -> None:
        """A notification on the engine's channel."""
        self.received += 1
        self._announced.add(payload)
        self.changed.set()

    def echoed(self, nonce: str) -> None:
        """A notification on our own channel."""
        self._echoes.append(nonce)
        self.changed.set()

    def ended(self, why: BaseException) -> None:
        """Nothing comes any more."""
        self.lost = why
        self.changed.set()

    def take_announced(self) -> Hints:
        """What was announced since the last look."""
        return self._announced.take()

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
