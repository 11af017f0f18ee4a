"""Which history of its log a checkpoint is of: kept behind the name of the cursor's family, so that any store keeps it."""

from __future__ import annotations

from ffcompletion.consumers.selection import cursor_family
from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.history import HistoryReader
from ffcompletion.contract.protocols import CompletionBackend

__all__ = ["check_history", "owner_of"]


def owner_of(backend: CompletionBackend, cursor: StreamCursor) -> str:
    """What is kept as the checkpoint's ``backend``."""
    family = cursor_family(cursor)
    history = backend.history_at(cursor) if isinstance(backend, HistoryReader) else ""
    return f"{family} {history}" if family and history else family


async def check_history(backend: CompletionBackend, stored: Checkpoint) -> None:
    """Raise ``CursorExpired`` if it is of another history than the backend's. One that has none is not known to be."""
    history = stored.backend.partition(" ")[2]
    if history and isinstance(backend, HistoryReader):
        await backend.check_history(stored.cursor, history)
