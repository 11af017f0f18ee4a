"""Waiting for those who write to a table of jobs, without having anybody wait for us."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg

from ffcompletion.attaching.checks import Connected
from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.quoting import table
from ffcompletion.contract.errors import Unavailable

__all__ = ["LOCK_MS", "PAUSE_S", "TRIES", "UNHURRIED", "busy", "patiently"]

_T = TypeVar("_T")

LOCK_MS: Final = 500
"""How long a lock is waited for at once: whoever comes behind us waits as well. Below the server's ``deadlock_timeout``
of a second: it is us who give way, never a worker."""
UNHURRIED: Final = "SET LOCAL statement_timeout = 0;"
"""A page of a large table takes its time, whatever limit our role has for its questions."""
TRIES: Final = 30
PAUSE_S: Final = 0.25
"""Between two tries."""
_HOLDER: Final = (
    "SELECT a.pid, coalesce(', ' || nullif(a.application_name, ''), '') || coalesce(', ' || a.state, ''),"
    " extract(epoch FROM clock_timestamp() - a.xact_start)::int, l.locktype FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    # A script that somebody pasted, say, and has not committed.
    " WHERE (l.relation = to_regclass(%s)::oid OR (l.locktype = 'advisory' AND l.objsubid = 1"
    " AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtextextended('ffcompletion producers'::text, 0::bigint)))"
    " AND l.granted AND l.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY a.xact_start LIMIT 1"
)


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
    row = conn.execute(_HOLDER, (table(definition),)).fetchone()
    whose = "" if row is None else f" (pid {row[0]}{row[1]}, for {row[2]} s)"
    what = "setting up" if row is not None and row[3] == "advisory" else definition.table
    return Unavailable("attach", f"{what} is held by a transaction that does not end{whose}; end it, and attach again")
