"""Which history of its log a checkpoint is of: kept behind the name of the cursor's family, so that any store keeps it."""

from __future__ import annotations

from ffcompletion.consumers.selection import cursor_family, own_family
from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.history import HistoryReader
from ffcompletion.contract.protocols import CompletionBackend

__all__ = ["check_owner", "owner_of"]


def owner_of(backend: CompletionBackend, cursor: StreamCursor) -> str:
    """What is kept as the checkpoint's ``backend``."""
    family = cursor_family(cursor)
    history = backend.history_at(cursor) if isinstance(backend, HistoryReader) else ""
    return f"{family} {history}" if family and history else family


async def check_owner(backend: CompletionBackend, name: str, stored: Checkpoint) -> None:
    """Raise ``Validation`` if it is of another kind of backend, ``CursorExpired`` if it is of another history. A
    checkpoint that has none is not known to be.
    """
    # The cursor itself says whose it is; what earlier versions wrote beside it, the name of a class, is not needed.
    family, own = cursor_family(stored.cursor), own_family(backend)
    if family and own and family != own:
        raise Validation(
            "checkpoint", f"{name!r} was stored for a backend with {family} cursors, and this one has {own}"
        )
    history = stored.backend.partition(" ")[2]
    if history and isinstance(backend, HistoryReader):
        await backend.check_history(stored.cursor, history)
