"""``subscribe``: any subscribe call, with less ceremony."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.protocols import (
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ResumableCompletionBackend,
)

__all__ = ["subscribe"]


@asynccontextmanager
async def subscribe(
    backend: CompletionBackend,
    filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
    *,
    cursor: StreamCursor | None = None,
) -> AsyncGenerator[CompletionStream]:
    """A stream for an ``async with`` block: picks the backend's method, and closes the stream when the block ends.

    ``filter``: None or a no-op admits everything. ``cursor``: where to resume; the backend must be resumable, else
    ``Unavailable``. Raises what the backend's own method raises.
    """
    stream = await _open(backend, filter, cursor)
    try:
        yield stream
    finally:
        await stream.aclose()


async def _open(
    backend: CompletionBackend, wanted: CompletionFilter | None, cursor: StreamCursor | None
) -> CompletionStream:
    if cursor is not None:
        if not isinstance(backend, ResumableCompletionBackend):
            raise Unavailable("subscribe_completions_from", f"{type(backend).__name__} keeps no log to resume from")
        return await backend.subscribe_completions_from(cursor, wanted)
    if wanted is None or wanted.is_noop():
        return await backend.subscribe_completions()
    return await backend.subscribe_completions_filtered(wanted)
