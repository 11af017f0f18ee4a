"""The SQL of looking for what ended without a row in the outbox."""

from __future__ import annotations

from typing import Final, LiteralString, final

from ffcompletion.backends.postgres.columns import RAW_RECORD, READ_RECORD, READABLE, RECORD, WHOLE
from ffcompletion.backends.postgres.queries import OWN_MARK, Queries, Query

__all__ = ["ENGINE_PARTITIONS", "SilentQueries"]

ENGINE_PARTITIONS: Final = 256
"""As many partition keys has the engine, whatever the number of tables that they are spread over."""


_COLUMNS: Final[LiteralString] = (
    "partition_key, execution_id, namespace, tags, size, terminal_at_ms, flow_id, lifecycle_phase, reason, failure, readable"
)
_WEIGHT: Final[LiteralString] = "(coalesce(octet_length(r.namespace), 0) + coalesce(octet_length(r.tags), 0))"
# Of texts in one page; one end at the least, whatever it weighs.
_MOST_BYTES: Final[LiteralString] = "1048576"
# The last id that a sequence has given out, once this statement's snapshot is taken: no row that it sees is beyond it.
_ISSUED: Final[LiteralString] = (
    "coalesce((SELECT CASE WHEN has_sequence_privilege(s, 'USAGE, SELECT') THEN pg_sequence_last_value(s::regclass) END"
    " FROM (SELECT %s::bigint::oid AS s) t), 9223372036854775807)"
)
# The words that tell an expiry have no more characters.
_FAILURE: Final[LiteralString] = "CASE WHEN " + WHOLE + " THEN left(c.raw_fields->>'last_failure_message', 32)"


@final
class SilentQueries:
    """The texts for one schema."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def silent(self, *, lanes: bool, keys: bool) -> Query:
        """Terminal records without a row in the outbox, a page of them: with ``keys`` in the partitions ``%s`` (smallint[]),
        in this order, that ended at the times ``%s`` (bigint[], ms) or later, and behind the executions ``%s`` (uuid[])
        where those are named; of lanes ``%s`` (text[]); all that ended no later than ``%s``, and whose row would be no
        older than ``%s`` ms before, with an id that sequence ``%s`` (bigint; NULL: any) has given out; of one partition,
        and altogether, at most ``%s``, twice.

        The last column is how many the page would have had without the bound on its bytes.
        """
        where: LiteralString = " AND c.lane_id = ANY(%s)" if lanes else ""
        if keys:
            where += " AND c.partition_key = w.partition_key"

        def text(outcome: LiteralString, record: LiteralString) -> bytes:
            inner: LiteralString = (
                "SELECT c.partition_key, c.execution_id::text AS execution_id, " + record + ", c.terminal_at_ms,"  # noqa: S608  # literals only
                " c.flow_id::text AS flow_id, c.lifecycle_phase, " + outcome + " FROM {core} c"
                " WHERE c.lifecycle_phase IN ('terminal', 'cancelled')"
                + where
                + " AND c.terminal_at_ms BETWEEN w.since_ms AND %s AND (w.after IS NULL"
                " OR (c.terminal_at_ms, c.execution_id, c.partition_key) > (w.since_ms, w.after, w.partition_key))"
                " AND c.partition_key >= 0 AND NOT EXISTS (SELECT FROM {outbox} e"
                " WHERE e.partition_key = c.partition_key AND e.execution_id = c.execution_id"
                " AND e.outcome <> 'resumable' AND e.occurred_at_ms >= c.terminal_at_ms - %s"
                # Another tenant's row announces nothing of this one's, nor one that is not looked at.
                " AND e.event_id <= "
                + _ISSUED
                + " AND (e.namespace IS NULL OR coalesce(e.namespace = c.raw_fields->>'namespace', true)))"
                " ORDER BY c.terminal_at_ms, c.execution_id, c.partition_key LIMIT %s"
            )
            # Partitions come in the order in which they are named: what lies behind a full page is not read.
            page: LiteralString = (
                "SELECT c.partition_key, c.execution_id, " + READ_RECORD + ", c.terminal_at_ms, c.flow_id,"  # noqa: S608  # the same
                " c.lifecycle_phase, c.reason, c.failure, " + READABLE + " FROM unnest(%s::smallint[], %s::bigint[],"
                " %s::uuid[]) AS w(partition_key, since_ms, after) CROSS JOIN LATERAL (" + inner + ") c LIMIT %s"
            )
            return self._queries.compose(
                "SELECT " + _COLUMNS + ", l.rows FROM (SELECT r.*, count(*) OVER () AS rows,"  # noqa: S608  # the same
                " sum(" + _WEIGHT + ") OVER (ROWS UNBOUNDED PRECEDING) - " + _WEIGHT + " AS before FROM (" + page + ")"
                " AS r(" + _COLUMNS + ")) l WHERE l.before < " + _MOST_BYTES
            )

        return Query(
            text("left(c.cancellation_reason, 32) AS reason, " + _FAILURE + " END AS failure", RECORD),
            text(
                "convert_to(left(c.cancellation_reason, 32), getdatabaseencoding()) AS reason,"
                " convert_to(" + _FAILURE + " END, getdatabaseencoding()) AS failure",
                RAW_RECORD,
            ),
            (2, 3, 8, 9),
        )

    def partitions(self) -> LiteralString:
        """How many partitions the table ``%s`` has; 0 where it is not partitioned."""
        return "SELECT count(*) FROM pg_partition_tree(to_regclass(%s)) WHERE isleaf AND level > 0"

    def record_keys(self) -> bytes:
        """The partition keys of the records, each with its table: ``key, oid``. Dear: tens of milliseconds."""
        return self._queries.compose(
            "SELECT k, l.relid::oid::bigint FROM (SELECT t.relid, m[1]::int AS modulus, m[2]::int AS remainder"
            " FROM pg_partition_tree(to_regclass(%s)) t JOIN pg_class p ON p.oid = t.relid,"
            " regexp_match(pg_get_expr(p.relpartbound, p.oid), 'modulus ([0-9]+), remainder ([0-9]+)') m"
            " WHERE t.isleaf AND m IS NOT NULL) l, generate_series(0, greatest(l.modulus, 256) - 1) k"
            " WHERE satisfies_hash_partition(to_regclass(%s)::oid, l.modulus, l.remainder, k::smallint)"
        )

    def written(self) -> LiteralString:
        """How much has been written to each of the tables ``%s`` (bigint[]): ``oid, count``."""
        return "SELECT o, pg_stat_get_tuples_inserted(o::oid) + pg_stat_get_tuples_updated(o::oid) FROM unnest(%s::bigint[]) o"

    def reconcilable(self) -> tuple[LiteralString, tuple[str, str, str, str]]:
        """One row: the lanes' table exists, is readable; an index leads to a lane's records; the tables are our own; what
        is written is counted, and told within seconds (before 15, a connection tells when it is used next).
        """
        return (
            "SELECT l IS NOT NULL, coalesce(has_table_privilege(l, 'SELECT'), false),"
            " EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c AND (SELECT array_agg(a.attname::text ORDER BY n)"
            " FROM unnest(i.indkey::smallint[]) WITH ORDINALITY k(col, n) JOIN pg_attribute a ON a.attrelid = c"
            " AND a.attnum = k.col)[1:3] = ARRAY['partition_key', 'lane_id', 'lifecycle_phase']),"
            " coalesce(obj_description(to_regclass(%s), 'pg_class') = %s, false),"
            " NOT pg_is_in_recovery() AND current_setting('track_counts')::boolean"
            " AND current_setting('server_version_num')::int >= 150000"
            " FROM (SELECT to_regclass(%s)::oid AS l, to_regclass(%s)::oid AS c) t",
            (self._queries.outbox_text, OWN_MARK, self._queries.lanes_text, self._queries.core_text),
        )

    def lanes(self) -> bytes:
        """Every lane there is, up to ``%s``; a lane's name has 64 bytes at the most."""
        return self._queries.compose("SELECT lane_id FROM {lanes} WHERE octet_length(lane_id) <= 64 LIMIT %s")
