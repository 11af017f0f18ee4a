"""Options as ``TypedDict``s, for whoever passes them on: those of the backends' classes, and of what works on a backend.

What each means is told where the class or the function is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ffcompletion.consumers.options import (
    CheckpointedOptions,
    Missing,
    Overflow,
    PartitionOptions,
    StreamOptions,
    SubscribeOptions,
    WaitOptions,
)
from ffcompletion.contract.checkpoint import Lease
from ffcompletion.contract.stats import Observer
from ffcompletion.delivery.credentials import Password

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool


__all__ = [
    "CheckpointedOptions",
    "CommonOptions",
    "ConnectOptions",
    "Lease",
    "MemoryOptions",
    "Missing",
    "Overflow",
    "PartitionOptions",
    "Password",
    "PostgresOptions",
    "StreamOptions",
    "SubscribeOptions",
    "ValkeyOptions",
    "WaitOptions",
]


class CommonOptions(TypedDict, total=False):
    """What every backend takes."""

    buffer_size: int
    setup_timeout: float
    observer: Observer | None


class MemoryOptions(CommonOptions, total=False):
    """What ``MemoryBackend`` takes."""

    retention: int


class ValkeyOptions(CommonOptions, total=False):
    """What ``ValkeyBackend`` takes, beside its URL."""

    username: str | None
    password: Password | None
    database: int | None
    tls_ca: str | Path | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    reconcile_interval: float
    lanes: Sequence[str]
    clock_skew: float
    linger: float


class PostgresOptions(CommonOptions, total=False):
    """What ``PostgresBackend`` takes, beside its connection string."""

    schema: str | None
    poll_interval: float
    read_timeout: float
    reconcile_interval: float
    pool: AsyncConnectionPool[Any] | None
    pool_size: int
    password: Password | None
    linger: float


class ConnectOptions(MemoryOptions, ValkeyOptions, PostgresOptions, total=False):
    """What ``connect`` takes. One that the URL's backend has no use for raises ``Validation``."""
