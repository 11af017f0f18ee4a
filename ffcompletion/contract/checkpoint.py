"""Where a consumer stands, to be kept across restarts, and who keeps it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, final, runtime_checkable

import msgspec

from ffcompletion.contract.cursor import StreamCursor

__all__ = ["Checkpoint", "CheckpointStore", "Lease", "LeasingStore", "StoredCheckpoint"]

Lease = Literal["none", "raise", "wait"]
"""Whether a name is one consumer's alone, and what happens where another has it."""


@final
class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's position, and what it is a position in. Immutable."""

    cursor: StreamCursor
    """Everything up to here has been processed."""
    backend: str
    """Whose cursor it is: ``outbox``, ``stream``, or a family's prefix; blank for the beginning and for "from now". After
    a blank, where the backend can tell: what its log is known again by.
    """
    selection: str
    """Which completions were asked for: filter and partitions, by value, as text."""


@final
class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One that a store keeps, and since when."""

    name: str
    checkpoint: Checkpoint
    saved_at: datetime


@runtime_checkable
class CheckpointStore(Protocol):
    """Keeps one checkpoint per name, across restarts. What it raises reaches the consumer as it is."""

    async def load(self, name: str, /) -> Checkpoint | None:
        """What was saved last under this name; None if nothing ever was. Raises rather than guess."""
        ...

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Keep this one instead. When it returns it must survive a crash; if it fails the former one must stay."""
        ...


@runtime_checkable
class LeasingStore(CheckpointStore, Protocol):
    """One that can keep a name for one consumer alone, so that two replicas do not run it by accident.

    What holds a lease must be gone with its holder, however that ends: a lock of the operating system, a connection.
    """

    async def acquire(self, name: str, /, *, wait: bool) -> None:
        """The name is the caller's alone from now on. Where another has it: wait, or raise ``Unavailable``."""
        ...

    async def release(self, name: str, /) -> None:
        """It is anybody's again. Idempotent."""
        ...
