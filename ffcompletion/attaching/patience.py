"""Waiting for those who write to a table of jobs, without having anybody wait for us."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg

from ffcompletion.attaching.checks import Connected
from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.quoting import table
from ffcompletion.backends.postgres.locking import PAUSE_S, held_by, holder_of
from ffcompletion.contract.errors import Unavailable

__all__ = ["TRIES", "UNHURRIED", "busy", "patiently"]

_T = TypeVar("_T")

UNHURRIED: Final = "SET LOCAL statement_timeout = 0;"
"""A page of a large table takes its time, whatever limit our role has for its questions."""
TRIES: Final = 30


def patiently(conn: Connected, work: Callable[[], _T], definition: Definition) -> _T:
    """Its answer, tried again while a lock is not to be had. Raises ``Unavailable`` in the end."""
    for left in reversed(range(TRIES)):
        try:
            return work()
        except psycopg.errors.LockNotAvailable as exc:
            if not left:
                raise busy(conn, definition) from exc
            time.sleep(PAUSE_S)
    raise busy(conn, definition)


def busy(conn: Connected, definition: Definition) -> Unavailable:
    """Somebody's transaction keeps us out: whose, as far as can be told."""
    holder = conn.execute(*holder_of([table(definition)])).fetchone()
    return Unavailable("attach", held_by(definition.table, holder, "attach"))
