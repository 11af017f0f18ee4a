"""One worker's part of a stream, by the partition that stands in each execution's id."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Self, final

import msgspec
from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import Batched, CompletionStream, Subscription
from ffcompletion.contract.stats import StreamStats

__all__ = ["Shard", "position_of", "sharded"]


def position_of(stream: CompletionStream) -> StreamCursor | None:
    """Where to resume after what the stream has yielded so far, where it can tell (it has a ``cursor``)."""
    cursor: object = getattr(stream, "cursor", None)
    return cursor if isinstance(cursor, StreamCursor) else None


def sharded(stream: CompletionStream, partitions: Collection[int]) -> CompletionStream:
    """The stream less the partitions that are others' business; it can do what the stream can."""
    if isinstance(stream, Batched):
        return BatchedShard(stream, partitions)
    return SubscriptionShard(stream, partitions) if isinstance(stream, Subscription) else Shard(stream, partitions)


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
            if self._is_mine(completion):
                return completion

    def _is_mine(self, completion: CompletionPayload) -> bool:
        """Counts what is not."""
        mine = completion.execution_id.partition in self._partitions
        self._passed += not mine
        return mine

    async def aclose(self) -> None:
        """Close the stream behind it."""
        await self._stream.aclose()

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume; what was passed over counts as yielded."""
        return position_of(self._stream)


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


@final
class BatchedShard(SubscriptionShard):
    """The same of one that can be read many at a time."""

    __slots__ = ("_batched", "_counting_one")

    def __init__(self, stream: Batched, partitions: Collection[int]) -> None:
        from threading import Lock  # noqa: PLC0415  # not at once: importing this package is to be cheap

        super().__init__(stream, partitions)
        self._batched = stream
        self._counting_one = Lock()

    async def next_batch(self, /) -> Iterator[CompletionPayload]:
        """``Batched.next_batch``; what is others' business is passed over as it is taken."""
        return filter(self._is_mine_on_any_thread, await self._batched.next_batch())

    def _is_mine_on_any_thread(self, completion: CompletionPayload) -> bool:
        with self._counting_one:
            return self._is_mine(completion)


if TYPE_CHECKING:
    _: type[CompletionStream] = Shard
    _subscription: type[Subscription] = SubscriptionShard
    _batched: type[Batched] = BatchedShard
