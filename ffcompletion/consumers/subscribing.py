"""``subscribe``: any subscribe call, with less ceremony."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Final, Self, final

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import (
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ResumableCompletionBackend,
)

__all__ = ["open_stream", "position_of", "subscribe"]

_MOST_PARTITIONS: Final = 65_536


@asynccontextmanager
async def subscribe(
    backend: CompletionBackend,
    filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
    *,
    cursor: StreamCursor | None = None,
    partitions: Collection[int] | None = None,
) -> AsyncGenerator[CompletionStream]:
    """A stream for an ``async with`` block: picks the backend's method, and closes the stream when the block ends.

    - ``filter``: None or a no-op admits everything.
    - ``cursor``: where to resume; the backend must be resumable, else ``Unavailable``.
    - ``partitions``: only executions of these partitions. Worker ``i`` of ``n`` takes ``range(i, 65_536, n)``, whatever
      the engine's own number of partitions: together they see everything, and each thing once. Decided here, by the
      id, so that it works with any backend; each worker still reads everything from the server.

    Raises what the backend's own method raises, ``Validation`` for partitions that cannot be.
    """
    stream = await open_stream(backend, filter, cursor, partitions)
    try:
        yield stream
    finally:
        await stream.aclose()


async def open_stream(
    backend: CompletionBackend,
    wanted: CompletionFilter | None,
    cursor: StreamCursor | None,
    partitions: Collection[int] | None,
) -> CompletionStream:
    """The stream that ``subscribe`` yields, to be closed by the caller."""
    if partitions is not None:
        check_partitions(partitions)
    stream = await _open(backend, wanted, cursor)
    return stream if partitions is None else _Shard(stream, partitions)


def check_partitions(partitions: Collection[int]) -> None:
    """Raises ``Validation`` for none at all, and for any that no id can have."""
    if not partitions:
        raise Validation("partitions", "none are given, so nothing would ever arrive")
    lowest, highest = min(partitions), max(partitions)
    if lowest < 0 or highest >= _MOST_PARTITIONS:
        raise Validation("partitions", f"{lowest} to {highest} is not within 0 to {_MOST_PARTITIONS - 1}")


def position_of(stream: CompletionStream) -> StreamCursor | None:
    """Where to resume after what the stream has yielded so far, where it can tell (it has a ``cursor``)."""
    cursor: object = getattr(stream, "cursor", None)
    return cursor if isinstance(cursor, StreamCursor) else None


async def _open(
    backend: CompletionBackend, wanted: CompletionFilter | None, cursor: StreamCursor | None
) -> CompletionStream:
    if cursor is not None:
        if not isinstance(backend, ResumableCompletionBackend):
            raise Unavailable("subscribe_completions_from", f"{type(backend).__name__} keeps no log to resume from")
        return await backend.subscribe_completions_from(cursor, wanted)
    if wanted is None or _is_noop(wanted):
        return await backend.subscribe_completions()
    return await backend.subscribe_completions_filtered(wanted)


def _is_noop(wanted: CompletionFilter) -> bool:
    from ffcompletion.foreign.filters import is_noop  # noqa: PLC0415  # it logs, and `logging` costs to import

    return is_noop(wanted)


@final
class _Shard:
    """A stream less the partitions that are others' business."""

    __slots__ = ("_partitions", "_stream")

    def __init__(self, stream: CompletionStream, partitions: Collection[int]) -> None:
        self._stream = stream
        self._partitions = partitions if isinstance(partitions, range) else frozenset(partitions)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        while True:
            completion = await self._stream.__anext__()
            if completion.execution_id.partition in self._partitions:
                return completion

    async def aclose(self) -> None:
        """Close the stream behind it."""
        await self._stream.aclose()

    @property
    def cursor(self) -> StreamCursor | None:
        """Where to resume; what was passed over counts as yielded."""
        return position_of(self._stream)
