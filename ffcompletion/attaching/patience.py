"""Waiting for those who write to a table of jobs, without having anybody wait for us."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg

from ffcompletion.attaching.definition import Definition
from ffcompletion.contract.errors import Unavailable

__all__ = ["LOCK_MS", "PAUSE_S", "TRIES", "busy", "patiently"]

_T = TypeVar("_T")

LOCK_MS: Final = 500
"""How long a lock is waited for at once: whoever comes behind us waits as well. Below the server's ``deadlock_timeout``
of a second: it is us who give way, never a worker."""
TRIES: Final = 30
PAUSE_S: Final = 0.25
"""Between two tries."""


def patiently(work: Callable[[], _T], definition: Definition) -> _T:
    """Its answer, tried again while a lock is not to be had. Raises ``Unavailable`` in the end."""
    for left in reversed(range(TRIES)):
        try:
            return work()
        except psycopg.errors.LockNotAvailable as exc:
            if not left:
                raise busy(definition) from exc
            time.sleep(PAUSE_S)
    raise busy(definition)


def busy(definition: Definition) -> Unavailable:
    """Somebody's transaction keeps us out."""
    return Unavailable(
        "attach", f"{definition.table} is written to by a transaction that does not end; end it, and attach again"
    )
