"""Who holds the watermark: asked of the server in one place, told once when it has been long, and once when it is over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, LiteralString, cast, final

import msgspec
from psycopg import sql
from typing_extensions import override

__all__ = ["HOLDERS", "Holder", "Holding"]

# Whoever may still fill an id: pid, application, state, age, when it began, the beginning of its query, or the prepared
# transaction. The oldest first, after those of which this role may not see it. No float8 in it: a role's
# extra_float_digits would round it.
HOLDERS: Final[LiteralString] = (
    "WITH holders AS (SELECT DISTINCT l.pid, l.virtualtransaction FROM pg_locks l"
    " WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND l.relation IN (SELECT relid FROM pg_partition_tree(%s::oid::regclass) UNION SELECT %s::oid))"
    " SELECT h.pid, a.application_name, a.state,"
    " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)),"
    " to_char(coalesce(a.xact_start, p.prepared) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), left(a.query, 80), p.gid"
    " FROM holders h LEFT JOIN pg_stat_activity a ON a.pid = h.pid"
    " LEFT JOIN pg_locks x ON h.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = h.virtualtransaction"
    " AND x.locktype = 'transactionid' LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
    " ORDER BY 4 DESC NULLS FIRST"
)

# A value in a query is somebody's business, and may be a secret; a query that is cut off may end inside one.
_VALUE: Final = re.compile(r"'(?:[^']|'')*'?|\$(\w*)\$.*?(?:\$\1\$|$)", re.DOTALL)
# In front of which a string may end or go on: its server's setting, and each string's own prefix, say which.
_ESCAPED: Final = "\\'"
# By how much the transaction may seem younger than what it holds.
_SLACK_S: Final = 1.0


def _without_values(query: str) -> str:
    if _ESCAPED in query:
        return query.partition("'")[0] + "'…'"
    return _VALUE.sub("'…'", query)


@final
class Holder(msgspec.Struct, frozen=True):
    """One transaction that may still fill an id."""

    pid: int | None
    application: str | None
    state: str | None
    age_s: float | None
    """None: this role may not see it."""
    since: str | None
    """UTC."""
    query: str | None
    prepared: str | None
    """The name of a prepared transaction, which has no session."""

    @classmethod
    def of(cls, row: Sequence[Any]) -> Holder:
        """From a row of ``HOLDERS``."""
        pid, application, state, age_s, since, query, prepared = cast(
            "tuple[int | None, str | None, str | None, Decimal | None, str | None, str | None, str | None]", tuple(row)
        )
        age = None if age_s is None else float(age_s)
        return cls(pid, application, state, age, since, query and _without_values(query), prepared)

    @override
    def __str__(self) -> str:
        if self.prepared is not None:
            return f"the prepared transaction {self.prepared!r}, since {self.since} UTC"
        if self.age_s is None:
            return f"pid {self.pid}, of which this role may not see more (GRANT pg_read_all_stats)"
        return f"pid {self.pid} ({self.application or 'no application name'}, {self.state}), since {self.since} UTC: {self.query!r}"

    @property
    def remedy(self) -> str:
        """What ends it."""
        if self.prepared is not None:
            return f"ROLLBACK PREPARED {sql.Literal(self.prepared).as_string()};  -- or COMMIT PREPARED"
        return f"SELECT pg_terminate_backend({self.pid});"


@final
class Holding:
    """Whether it has to be told that the watermark is held, or that it is no longer. Pure: the clock is passed in."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        # Since when that is held which was told of.
        self._reported: float | None = None

    def due(self, since: float | None, now: float) -> bool:
        """``since``: when the lowest id that is missing was first missed. True: ask who it is, and tell."""
        return since is not None and self._reported is None and now - since >= self._after_s

    def tell(self, since: float, now: float, holders: Sequence[Holder], watermark: int, held: int) -> str:
        """The line. Only who is old enough can be the one."""
        self._reported = since
        age_s = now - since
        known = [each for each in holders if each.age_s is None or each.age_s + _SLACK_S >= age_s]
        who = str(known[0]) if known else "nobody who can be seen from here"
        more = f", and {len(known) - 1} more" if len(known) > 1 else ""
        remedy = f"; to end it: {known[0].remedy}" if known else ""
        return (
            f"the watermark has been held at event {watermark} for {age_s:.0f} s ({held} ids beyond it are missing) by"
            f" {who}{more}; cursors stand still, and a restart repeats what lies beyond{remedy}"
        )

    def over(self, since: float | None, now: float) -> str | None:
        """The line, if what was told of is held no longer."""
        told = self._reported
        if told is None or since == told:
            return None
        self._reported = None
        return f"the watermark moves again, after {now - told:.0f} s"
