"""What the functions on a backend take beside it, once for asynchronous and blocking code.

What each option means is told where the function is.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypedDict

from ffcompletion.contract.checkpoint import Lease
from ffcompletion.contract.cursor import StreamCursor

__all__ = [
    "CheckpointedOptions",
    "Missing",
    "Overflow",
    "PartitionOptions",
    "StreamOptions",
    "SubscribeOptions",
    "WaitOptions",
]

Missing = Literal["error", "wait"]
"""What an unknown id means: an error, or an execution that is yet to be made."""

Overflow = Literal["wait", "drop", "fail"]
"""What happens when the buffer of a ``broadcast``'s consumer is full: everybody waits for it, it loses its oldest, or its
stream fails."""


class PartitionOptions(TypedDict, total=False):
    """What ``subscribe`` takes for any backend."""

    partitions: Collection[int] | None


class StreamOptions(PartitionOptions, total=False):
    """What it takes for a ``ResumableCompletionBackend``, which knows cursors."""

    cursor: StreamCursor | None


class SubscribeOptions(StreamOptions, total=False):
    """What it takes for a ``Backend``, which knows results."""

    results: bool


class WaitOptions(TypedDict, total=False):
    """What ``wait_for_completion``, ``wait_for_all``, ``wait_for_flow`` and ``as_completed`` take."""

    timeout: float | None
    result: bool
    missing: Missing
    poll_interval: float


class CheckpointedOptions(TypedDict, total=False):
    """What ``checkpointed`` takes."""

    start: StreamCursor | None
    partitions: Collection[int] | None
    results: bool
    save_interval: float
    selection: str | None
    lease: Lease
