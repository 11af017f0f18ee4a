"""How far a consumer is: what has been handed out, and what of it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.stats import Lag, seconds_since

__all__ = ["Processed", "Progress"]


@final
class Processed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one ``run``."""

    processed: int
    """Completions whose handler ended well."""
    failed: int
    """Completions that kept failing, and went to the handler for those."""
    cursor: StreamCursor | None
    """How far that is: everything up to here has been processed, or has gone to the handler for what failed."""


@final
class Progress:
    """What has been handed out, and what of it is done: how far everything is."""

    def __init__(self) -> None:
        self._open: deque[tuple[StreamCursor, list[bool], int]] = deque()
        self.cursor: StreamCursor | None = None
        """Everything handed out up to here is done; None while nothing is."""

    @property
    def busy(self) -> bool:
        """Whether anything handed out is not done."""
        return bool(self._open)

    def lag(self, stream: Lag) -> Lag:
        """What is not done, of what was handed out and of what is still to come from the stream."""
        undone = sum(not done[0] for _, done, _ in self._open)
        if not undone:
            return stream
        oldest = seconds_since(self._open[0][2])
        # The oldest is the first: what is done ahead of all others is no longer here.
        return Lag(completions=undone + stream.completions, seconds=oldest)

    def begin(self, cursor: StreamCursor, produced_at_ms: int = 0) -> Callable[[], None]:
        """Handed out, after which the stream stands at ``cursor``. Call what is returned when it is done."""
        done = [False]
        self._open.append((cursor, done, produced_at_ms))

        def finish() -> None:
            done[0] = True
            while self._open and self._open[0][1][0]:
                self.cursor = self._open.popleft()[0]

        return finish
