"""Where a consumer stands, to be kept across restarts, and who keeps it."""

from __future__ import annotations

from typing import Protocol, final, runtime_checkable

import msgspec

from ffcompletion.contract.cursor import StreamCursor

__all__ = ["Checkpoint", "CheckpointStore"]


@final
class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's position, and what it is a position in. Immutable."""

    cursor: StreamCursor
    """Everything up to here has been processed."""
    backend: str
    """The class of the backend whose cursor it is."""
    selection: str
    """Which completions were asked for: filter and partitions, as text."""


@runtime_checkable
class CheckpointStore(Protocol):
    """Keeps one checkpoint per name, across restarts. What it raises reaches the consumer as it is."""

    async def load(self, name: str, /) -> Checkpoint | None:
        """What was saved last under this name; None if nothing ever was. Raises rather than guess."""
        ...

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Keep this one instead. When it returns it must survive a crash; if it fails the former one must stay."""
        ...
