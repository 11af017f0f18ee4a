"""What ended without a row, for one stream: decided once each, and waiting for its consumer on its buffer's account."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import final

import msgspec

from ffcompletion.backends.postgres.silent import DecidedEnds, End
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import seconds_since
from ffcompletion.delivery.buffer import Buffer, weight

__all__ = ["FoundEnds"]


@final
class FoundEnds:
    """Its length is how many wait."""

    __slots__ = ("_buffer", "_count", "_ends", "_queue", "filtered", "undecided")

    def __init__(self, buffer: Buffer, opened_ms: int) -> None:
        """``opened_ms``: what ended before is not for this stream."""
        self._buffer = buffer
        self._ends = DecidedEnds(opened_ms)
        self._queue: deque[Sequence[CompletionPayload]] = deque()
        self._count = 0
        self.filtered: int = 0
        """Those that its filter did not admit, and rows of those that it was given."""
        self.undecided: int = 0

    def __len__(self) -> int:
        return self._count

    def unseen(self, ends: Sequence[End]) -> Sequence[End]:
        """Those of the ends that are for the stream, and were not decided for it."""
        return self._ends.wanted(ends)

    def add(self, ends: Sequence[End], chosen: Sequence[CompletionPayload], withheld: tuple[int, int]) -> None:
        """These ends were decided: what the stream admits of them, and how many are filtered and undecided."""
        self._ends.decide(ends, chosen)
        self.filtered += withheld[0]
        self.undecided += withheld[1]
        if chosen:
            self._queue.append(chosen)
            self._count += len(chosen)
            self._buffer.keep(len(chosen), weight(chosen))
            self._buffer.wake()

    def take(self, cursor: StreamCursor) -> Sequence[CompletionPayload]:
        """The oldest of them. They have no position of their own: to resume is to go on from ``cursor``."""
        batch = self._queue.popleft()
        self._count -= len(batch)
        self._buffer.keep(-len(batch), -weight(batch))
        return [msgspec.structs.replace(payload, cursor=cursor) for payload in batch]

    def without_given(self, rows: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """Rows without those for a completion that was given already, which count as filtered."""
        rest = self._ends.without_given(rows)
        self.filtered += len(rows) - len(rest)
        return rest

    @property
    def age_s(self) -> float | None:
        """How long ago the next of them was."""
        return seconds_since(self._queue[0][0].produced_at_ms)
