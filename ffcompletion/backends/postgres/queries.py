"""Every SQL text, once. Identifiers are quoted by ``psycopg.sql``; values are always parameters.

The outbox is hash-partitioned 256 ways, so planning a query over it costs more than running it: the texts are meant
to be prepared, with ``plan_cache_mode = force_generic_plan``.
"""

from __future__ import annotations

from typing import Final, LiteralString, final

from psycopg import sql

from ffcompletion.contract.filter import ScannerFilter

__all__ = ["BACKEND_PID", "CHANNEL", "CORE", "ECHO", "GENERIC_PLAN", "OUTBOX", "SERVER", "Queries", "filter_values"]

CHANNEL: Final = "ff_completion"
OUTBOX: Final = "ff_completion_event"
CORE: Final = "ff_exec_core"

# The server formats ids: a text column decodes in C, and a negative partition (no valid id) becomes NULL.
_COLUMNS: Final[LiteralString] = (
    "e.event_id, CASE WHEN e.partition_key >= 0 THEN '{{fp:' || e.partition_key || '}}:' || e.execution_id END,"
    " e.outcome, e.occurred_at_ms, e.flow_id::text"
)
# The row's own namespace decides where it has one; its tag column is ambiguous and never does.
_FACTS: Final[LiteralString] = (
    ", c.execution_id IS NOT NULL, coalesce(e.namespace, c.raw_fields->>'namespace'), (c.raw_fields->'tags')::text"
)
_RESULT: Final[LiteralString] = ", c.result"
_JOIN: Final[LiteralString] = (
    " LEFT JOIN {core} c ON c.partition_key = e.partition_key AND c.execution_id = e.execution_id"
)

SERVER: Final = (
    "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), pg_backend_pid(), current_user::text,"
    # The timeline as WAL is written now; the control file lags behind a promotion.
    " CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)
ECHO: Final = "SELECT pg_notify(%s, %s)"
BACKEND_PID: Final = "SELECT pg_backend_pid()"
GENERIC_PLAN: Final = "SET plan_cache_mode = force_generic_plan"


@final
class Queries:
    """The texts for one schema (None: wherever ``search_path`` finds the tables)."""

    def __init__(self, schema: str | None) -> None:
        def name(table: str) -> sql.Identifier:
            return sql.Identifier(table) if schema is None else sql.Identifier(schema, table)

        self._names: Final = {"outbox": name(OUTBOX), "core": name(CORE)}
        self._composed: dict[str, bytes] = {}
        self.schema: Final = schema
        self.outbox_text: Final = name(OUTBOX).as_string()
        self.core_text: Final = name(CORE).as_string()

    def _compose(self, text: LiteralString) -> bytes:
        # Composing costs more than a short query takes, and there are only a handful of texts.
        found = self._composed.get(text)
        if found is None:
            found = self._composed[text] = sql.SQL(text).format(**self._names).as_bytes()
        return found

    def rights(self) -> tuple[LiteralString, tuple[str, str]]:
        """One row: outbox exists, is readable, its schema is usable; core exists, is readable."""
        return (
            "SELECT o IS NOT NULL, coalesce(has_table_privilege(o, 'SELECT'), false),"
            " c IS NOT NULL, coalesce(has_table_privilege(c, 'SELECT'), false)"
            " FROM (SELECT to_regclass(%s)::oid AS o, to_regclass(%s)::oid AS c) t",
            (self.outbox_text, self.core_text),
        )

    def schema_exists(self) -> LiteralString:
        """One row: the schema exists, and may be used."""
        return "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %s"

    def relations(self) -> tuple[LiteralString, tuple[str, str]]:
        """The oids of the outbox and its partitions."""
        return (
            "SELECT relid::oid::bigint FROM pg_partition_tree(to_regclass(%s))"
            " UNION SELECT to_regclass(%s)::oid::bigint",
            (self.outbox_text, self.outbox_text),
        )

    def high(self) -> bytes:
        """The highest visible id, or no row."""
        return self._compose("SELECT event_id FROM {outbox} ORDER BY event_id DESC LIMIT 1")

    def low(self) -> bytes:
        """The lowest visible id, or no row."""
        return self._compose("SELECT event_id FROM {outbox} ORDER BY event_id LIMIT 1")

    def issued(self) -> tuple[LiteralString, tuple[str]]:
        """The last id that the sequence gave out; NULL where it may not be seen or has not been used."""
        return (
            "SELECT pg_sequence_last_value(s) FROM (SELECT pg_get_serial_sequence(%s, 'event_id')::regclass::oid AS s) t"
            " WHERE s IS NOT NULL AND has_sequence_privilege(s, 'USAGE, SELECT')",
            (self.outbox_text,),
        )

    def ids(self) -> bytes:
        """Visible ids in ``(%s, %s]``, ascending."""
        return self._compose("SELECT event_id FROM {outbox} WHERE event_id > %s AND event_id <= %s ORDER BY event_id")

    def page(self, *, facts: bool, results: bool) -> bytes:
        """Rows after ``%s``, ascending, at most ``%s``.

        One bound only: with two, a generic plan expects few rows, reads the whole range and sorts it.
        """
        return self._select(" WHERE e.event_id > %s ORDER BY e.event_id LIMIT %s", facts=facts, results=results)

    def stretch(self) -> bytes:
        """The id of the last of the next ``%s`` rows after ``%s``; NULL if there is none. (Parameters: after, count.)"""
        return self._compose(
            "SELECT max(event_id) FROM"
            " (SELECT event_id FROM {outbox} WHERE event_id > %s ORDER BY event_id LIMIT %s) stretch"
        )

    def matching(self, wanted: ScannerFilter, *, results: bool) -> bytes:
        """Completions in ``(%s, %s]`` that a filter admits, ascending; then the filter's own (``filter_values``)."""
        where: LiteralString = " WHERE e.event_id > %s AND e.event_id <= %s AND e.outcome <> 'resumable'"
        if wanted.namespace is not None:
            where += " AND coalesce(e.namespace, c.raw_fields->>'namespace') = %s"
        if wanted.instance_tag is not None:
            where += " AND c.raw_fields->'tags'->>%s = %s"
        return self._select(where + " ORDER BY e.event_id", facts=False, results=results, join=True)

    def picked(self, *, facts: bool, results: bool) -> bytes:
        """Rows whose id is in ``%s`` (bigint[]), ascending."""
        return self._select(" WHERE e.event_id = ANY(%s) ORDER BY e.event_id", facts=facts, results=results)

    def described(self, *, results: bool) -> bytes:
        """Executions by partition keys ``%s`` (smallint[]) and ids ``%s`` (uuid[]), each with its newest completion.

        In no order: the first column is the position among those asked for, from 1.
        """
        text: LiteralString = (
            "SELECT w.n, c.execution_id IS NOT NULL, coalesce(c.raw_fields->>'namespace', o.namespace),"
            " coalesce(c.flow_id, o.flow_id)::text, c.lane_id, (c.raw_fields->'tags')::text, c.lifecycle_phase,"
            " c.cancellation_reason, c.raw_fields->>'last_failure_message', c.terminal_at_ms,"
            # A job that had finished before its table was attached has no row in the outbox.
            " coalesce(o.outcome, c.raw_fields->>'attached_outcome'), o.occurred_at_ms,"
        )
        text += " c.result" if results else " NULL::bytea"
        text += (
            " FROM unnest(%s::smallint[], %s::uuid[]) WITH ORDINALITY AS w(partition_key, execution_id, n)"
            " LEFT JOIN {core} c ON c.partition_key = w.partition_key AND c.execution_id = w.execution_id"
            " LEFT JOIN LATERAL (SELECT e.outcome, e.occurred_at_ms, e.namespace, e.flow_id FROM {outbox} e"
            " WHERE e.partition_key = w.partition_key AND e.execution_id = w.execution_id AND e.outcome <> 'resumable'"
            " ORDER BY e.event_id DESC LIMIT 1) o ON true"
        )
        return self._compose(text)

    def members(self, *, everywhere: bool) -> bytes:
        """``partition_key, execution_id`` of flow ``%s``, in partition ``%s`` alone unless everywhere."""
        text: LiteralString = "SELECT partition_key, execution_id::text FROM {core} WHERE flow_id = %s::uuid"
        return self._compose(text if everywhere else text + " AND partition_key = %s")

    def _select(self, tail: LiteralString, *, facts: bool, results: bool, join: bool = False) -> bytes:
        columns: LiteralString = _COLUMNS + (_FACTS if facts else "") + (_RESULT if results else "")
        joined: LiteralString = _JOIN if facts or results or join else ""
        return self._compose("SELECT " + columns + " FROM {outbox} e" + joined + tail)  # noqa: S608  # literals only

    def owners(self) -> LiteralString:
        """Transactions that hold a write lock on one of these relations; parameter: their oids (bigint[]).

        ``virtualtransaction`` names a running transaction, ``-1/xid`` a prepared one.
        """
        return (
            "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted"
            " AND mode = 'RowExclusiveLock' AND relation::bigint = ANY(%s)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    def horizon(self) -> LiteralString:
        """On a replica, whose lock table knows no writers: the snapshot's xmin and xmax."""
        return (
            "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint"
            " FROM (SELECT pg_current_snapshot() AS s) t"
        )


def filter_values(wanted: ScannerFilter) -> list[object]:
    """The parameters that ``matching`` takes for this filter, in order."""
    values: list[object] = []
    if wanted.namespace is not None:
        values.append(wanted.namespace)
    if wanted.instance_tag is not None:
        values.extend(wanted.instance_tag)
    return values
