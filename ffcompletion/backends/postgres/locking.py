"""Setting up waits for those who write to its tables, without having anybody wait for it; and says who keeps it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

__all__ = ["LOCK_MS", "PAUSE_S", "SETTING_UP", "held_by", "holder_of"]

LOCK_MS: Final = 500
"""How long a lock is waited for at once: whoever comes behind us waits as well. Below the server's ``deadlock_timeout``
of a second: it is us who give way, never a worker."""
PAUSE_S: Final = 0.25
"""Between two tries: those who came behind us go first."""
SETTING_UP: Final = "ffcompletion producers"
"""What the advisory lock is named after that whoever installs, attaches or detaches takes first, in each of the scripts."""
_HOLDER: Final[LiteralString] = (
    "SELECT a.pid, coalesce(', ' || nullif(a.application_name, ''), '') || coalesce(', ' || a.state, ''),"
    " extract(epoch FROM clock_timestamp() - a.xact_start)::int, l.locktype FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    # A script that somebody pasted, say, and has not committed.
    " WHERE (l.relation IN (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name)"
    " OR (l.locktype = 'advisory' AND l.objsubid = 1"
    " AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtextextended(%s::text, 0::bigint)))"
    " AND l.granted AND l.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY a.xact_start LIMIT 1"
)


def holder_of(tables: Sequence[str]) -> tuple[LiteralString, tuple[list[str], str]]:
    """The question who has been in a transaction the longest, of those that hold one of these or are setting up."""
    return _HOLDER, (list(tables), SETTING_UP)


def held_by(tables: str, holder: Sequence[object] | None, again: str) -> str:
    """What ``holder_of`` found, for whoever is to do ``again`` later; None: it cannot be told."""
    whose = "" if holder is None else f" (pid {holder[0]}{holder[1]}, for {holder[2]} s)"
    what = "setting up" if holder is not None and holder[3] == "advisory" else tables
    return f"{what} is held by a transaction that does not end{whose}; end it, and {again} again"
