"""One worker's part of a stream, by the partition that stands in each execution's id."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Self, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream, Subscription
from ffcompletion.contract.stats import StreamStats

__all__ = ["Shard", "SubscriptionShard", "position_of"]


def position_of(stream: CompletionStream) -> StreamCursor | None:
    """Where to resume after what the stream has yielded so far, where it can tell (it has a ``cursor``)."""
    cursor: object = getattr(stream, "cursor", None)
    return cursor if isinstance(cursor, StreamCursor) else None


class Shard:
    """A stream less the partitions that are others' business."""

    __slots__ = ("_partitions", "_passed", "_stream")

    def __init__(self, stream: CompletionStream, partitions: Collection[int]) -> None:
        self._stream = stream
        self._partitions = partitions if isinstance(partitions, range) else frozenset(partitions)
        self._passed = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        while True:
            completion = await self._stream.__anext__()
            if completion.execution_id.partition in self._partitions:
                return completion
            self._passed += 1

    async def aclose(self) -> None:
        """Close the stream behind it."""
        await self._stream.aclose()

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume; what was passed over counts as yielded."""
        return position_of(self._stream)


@final
class SubscriptionShard(Shard, AsyncClosing):
    """The same of a stream that counts."""

    __slots__ = ("_counting",)

    def __init__(self, stream: Subscription, partitions: Collection[int]) -> None:
        super().__init__(stream, partitions)
        self._counting = stream

    def stats(self) -> StreamStats:
        """The stream's counters; what was passed over counts as filtered."""
        stats = self._counting.stats()
        passed = self._passed
        return msgspec.structs.replace(stats, delivered=stats.delivered - passed, filtered=stats.filtered + passed)

    @override
    def __repr__(self) -> str:
        return f"<{len(self._partitions)} partitions of {self._counting!r}>"


if TYPE_CHECKING:
    _: type[CompletionStream] = Shard
    _subscription: type[Subscription] = SubscriptionShard
