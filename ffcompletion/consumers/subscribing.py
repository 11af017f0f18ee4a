"""``subscribe``: any subscribe call, with less ceremony."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, overload

from typing_extensions import Unpack

from ffcompletion.consumers.options import PartitionOptions, StreamOptions, SubscribeOptions
from ffcompletion.consumers.shards import sharded
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.protocols import (
    Backend,
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ResumableBackend,
    ResumableCompletionBackend,
    Subscription,
)

if TYPE_CHECKING:
    from ffcompletion.consumers.sharing import Broadcast

__all__ = ["MOST_PARTITIONS", "check_cursor", "check_partitions", "open_stream", "subscribe"]

MOST_PARTITIONS: Final = 65_536
"""What an id's partition is below."""


@overload
def subscribe(
    backend: Backend,
    filter: CompletionFilter | None = None,  # the contract's own word
    **options: Unpack[SubscribeOptions],
) -> AbstractAsyncContextManager[Subscription]: ...
@overload
def subscribe(
    backend: Broadcast,
    filter: CompletionFilter | None = None,  # the contract's own word
    **options: Unpack[PartitionOptions],
) -> AbstractAsyncContextManager[Subscription]: ...
@overload
def subscribe(
    backend: ResumableCompletionBackend,
    filter: CompletionFilter | None = None,  # the contract's own word
    **options: Unpack[StreamOptions],
) -> AbstractAsyncContextManager[CompletionStream]: ...
@overload
def subscribe(
    backend: CompletionBackend,
    filter: CompletionFilter | None = None,  # the contract's own word
    **options: Unpack[PartitionOptions],
) -> AbstractAsyncContextManager[CompletionStream]: ...
def subscribe(
    backend: CompletionBackend,
    filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
    **options: Unpack[SubscribeOptions],
) -> AbstractAsyncContextManager[CompletionStream]:
    """A stream for an ``async with`` block: picks the backend's method, and closes the stream when the block ends.

    A ``Backend`` (what ``connect`` returns) gives a ``Subscription``, with ``stats()`` and ``cursor``; so does what
    ``broadcast`` shares.

    - ``filter``: None or a no-op admits everything.
    - ``cursor``: where to resume; the backend must be resumable, else ``Unavailable``.
    - ``partitions``: only executions of these partitions. Worker ``i`` of ``n`` takes ``range(i, 65_536, n)``, whatever
      the engine's own number of partitions: together they see everything, and each thing once. Decided here, by the
      id, so that it works with any backend; each worker still reads everything from the server.
    - ``results``: payloads carry the stored result, as ``payload_bytes``; the backend must be a ``Backend``, else
      ``Unavailable``.

    Raises what the backend's own method raises, ``Validation`` for partitions that cannot be.
    """
    return _closing(backend, filter, **options)


@asynccontextmanager
async def _closing(
    backend: CompletionBackend, wanted: CompletionFilter | None, **options: Unpack[SubscribeOptions]
) -> AsyncGenerator[CompletionStream]:
    stream = await open_stream(backend, wanted, **options)
    try:
        yield stream
    finally:
        await stream.aclose()


async def open_stream(
    backend: CompletionBackend,
    wanted: CompletionFilter | None,
    *,
    cursor: StreamCursor | None = None,
    partitions: Collection[int] | None = None,
    results: bool = False,
) -> CompletionStream:
    """The stream that ``subscribe`` yields, to be closed by the caller."""
    check_cursor(cursor)
    if partitions is not None:
        check_partitions(partitions)
    stream = await (_open_with_results if results else _open)(backend, wanted, cursor)
    return stream if partitions is None else sharded(stream, partitions)


def check_cursor(cursor: object) -> None:
    """Raises ``Validation`` for what is none: its text or bytes, as they were stored."""
    if cursor is not None and not isinstance(cursor, StreamCursor):
        raise Validation(
            "cursor", f"a StreamCursor is needed, not {type(cursor).__name__}; from_text and from_bytes make one"
        )


def check_partitions(partitions: Collection[int]) -> None:
    """Raises ``Validation`` for none at all, for any that no id can have, and for what are no numbers."""
    _check_collection(partitions)
    if not partitions:
        raise Validation("partitions", "none are given, so nothing would ever arrive")
    try:
        lowest, highest = operator.index(min(partitions)), operator.index(max(partitions))
    except TypeError:
        raise _no_partitions() from None
    if lowest < 0 or highest >= MOST_PARTITIONS:
        raise Validation("partitions", f"{lowest} to {highest} is not within 0 to {MOST_PARTITIONS - 1}")


def _check_collection(partitions: object) -> None:
    # An iterator would be used up by the first look at it.
    if not isinstance(partitions, Collection):
        raise _no_partitions()


def _no_partitions() -> Validation:
    return Validation("partitions", "a list, set or range of whole numbers is needed")


async def _open(
    backend: CompletionBackend, wanted: CompletionFilter | None, cursor: StreamCursor | None
) -> CompletionStream:
    if cursor is not None:
        return await _resumable(backend).subscribe_completions_from(cursor, wanted)
    if wanted is None or _is_noop(wanted):
        return await backend.subscribe_completions()
    return await backend.subscribe_completions_filtered(wanted)


async def _open_with_results(
    backend: CompletionBackend, wanted: CompletionFilter | None, cursor: StreamCursor | None
) -> CompletionStream:
    if not isinstance(backend, Backend):
        raise Unavailable("results=True", f"{type(backend).__name__} is no ffcompletion.Backend")
    if cursor is not None:
        if not isinstance(backend, ResumableBackend):
            raise _keeps_no_log(backend)
        return await backend.subscribe_completions_from(cursor, wanted, results=True)
    if wanted is None or _is_noop(wanted):
        return await backend.subscribe_completions(results=True)
    return await backend.subscribe_completions_filtered(wanted, results=True)


def _is_noop(wanted: CompletionFilter) -> bool:
    from ffcompletion.foreign.filters import is_noop  # noqa: PLC0415  # it logs, and `logging` costs to import

    return is_noop(wanted)


def _resumable(backend: CompletionBackend) -> ResumableCompletionBackend:
    if isinstance(backend, ResumableCompletionBackend):
        return backend
    raise _keeps_no_log(backend)


def _keeps_no_log(backend: CompletionBackend) -> Unavailable:
    return Unavailable("subscribe_completions_from", f"{type(backend).__name__} keeps no log to resume from")
