"""The SQL of how the outbox is numbered: what its sequence has given out, and which ids are visible.

Where the sequence may not be seen, has never been used, or the rows are replicated from a server that numbers them,
there is nothing to tell by, and every id counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString, cast, final

from ffcompletion.backends.postgres.queries import Queries, Query
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["Numbering", "numbered_here", "with_issued"]

_log: Final = RateLog(logger("ffcompletion.postgres"))

# A subscriber's rows are numbered where they come from, and its own sequence does not follow.
_COPIED: Final[LiteralString] = (
    "EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = to_regclass(%s)"
    " OR r.srrelid IN (SELECT relid FROM pg_partition_tree(to_regclass(%s))))"
)
_NUMBERED_HERE: Final[LiteralString] = (
    " FROM (SELECT pg_get_serial_sequence(%s, 'event_id')::regclass::oid AS s) t WHERE s IS NOT NULL AND NOT " + _COPIED
)
# NULL, too, where there is no such sequence any more. It is evaluated after the rows were seen, so theirs are included.
_LAST: Final = (
    b" UNION ALL SELECT CASE WHEN has_sequence_privilege(s, 'USAGE, SELECT') THEN pg_sequence_last_value(s::regclass) END,"
    b" NULL, NULL, NULL, NULL, NULL FROM (SELECT %s::bigint::oid AS s) t"
)


def with_issued(query: Query) -> Query:
    """The same rows, and behind them one more with the last id that sequence ``%s`` (bigint) has given out, or NULL."""
    return Query(b"(" + query.text + b")" + _LAST, b"(" + query.raw + b")" + _LAST, query.columns)


def numbered_here(row: Sequence[Any]) -> int:
    """The oid in an answer to ``numbered_by``; 0: there is none. Whoever reads a copy is told what that means."""
    oid, copied = cast("tuple[int | None, bool]", tuple(row))
    if copied:
        _log.warning(
            "the outbox is a copy by logical replication, which does not tell who is still writing: rows that commit late are"
            " missed; read it at its publisher, or from a streaming replica"
        )
    return oid or 0


@final
class Numbering:
    """The texts for one schema."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def high(self) -> bytes:
        """The highest visible id, or no row. Ids begin at 1: what somebody wrote below by hand is no position."""
        return self._queries.compose("SELECT event_id FROM {outbox} WHERE event_id > 0 ORDER BY event_id DESC LIMIT 1")

    def high_upto(self) -> bytes:
        """The highest visible id up to ``%s``, or no row."""
        return self._queries.compose(
            "SELECT event_id FROM {outbox} WHERE event_id > 0 AND event_id <= %s ORDER BY event_id DESC LIMIT 1"
        )

    def downwards(self) -> bytes:
        """Visible ids up to ``%s``, descending, at most ``%s``. One bound only: with two, the whole range is sorted."""
        return self._queries.compose(
            "SELECT event_id FROM {outbox} WHERE event_id <= %s ORDER BY event_id DESC LIMIT %s"
        )

    def low(self) -> bytes:
        """The lowest visible id, or no row."""
        return self._queries.compose("SELECT event_id FROM {outbox} WHERE event_id > 0 ORDER BY event_id LIMIT 1")

    def sequence(self) -> tuple[LiteralString, tuple[str, str]]:
        """One row: the last id given out (0 if none; NULL where that may not be seen), the outbox's oid, the sequence's
        file.
        """
        text = self._queries.outbox_text
        return (
            "SELECT CASE WHEN has_sequence_privilege(s, 'USAGE, SELECT')"
            " THEN coalesce(pg_sequence_last_value(s), 0) END, o::bigint, pg_relation_filenode(s)::bigint"
            " FROM (SELECT to_regclass(%s)::oid AS o, pg_get_serial_sequence(%s, 'event_id')::regclass::oid AS s) t",
            (text, text),
        )

    def numbered_by(self) -> tuple[LiteralString, tuple[str, ...]]:
        """One row: the oid of the sequence, NULL where it is not what numbers the rows; and whether they are a subscriber's."""
        return (
            "SELECT CASE WHEN NOT copied THEN s::bigint END, copied FROM (SELECT"  # noqa: S608  # literals only
            " pg_get_serial_sequence(%s, 'event_id')::regclass::oid AS s, " + _COPIED + " AS copied) t",
            self._texts,
        )

    def issued(self) -> tuple[LiteralString, tuple[str, ...]]:
        """The last id that the sequence gave out; NULL where it has not been used; no row where nothing tells."""
        return (
            "SELECT pg_sequence_last_value(s)" + _NUMBERED_HERE + " AND has_sequence_privilege(s, 'USAGE, SELECT')",
            self._texts,
        )

    def steps(self) -> tuple[LiteralString, tuple[str]]:
        """How the outbox's sequence numbers: ids that a session may keep in store, and the increment. Or no row."""
        return (
            "SELECT seqcache, seqincrement FROM pg_sequence"
            " WHERE seqrelid = pg_get_serial_sequence(%s, 'event_id')::regclass",
            (self._queries.outbox_text,),
        )

    @property
    def _texts(self) -> tuple[str, ...]:
        text = self._queries.outbox_text
        return text, text, text
