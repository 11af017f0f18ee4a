"""Every SQL text, once. Identifiers are quoted by ``psycopg.sql``; values are always parameters.

The outbox is hash-partitioned 256 ways, so planning a query over it costs more than running it: the texts are meant
to be prepared, with ``plan_cache_mode = force_generic_plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, LiteralString, final

import msgspec
from psycopg import sql

from ffcompletion.backends.postgres.columns import (
    RAW_RECORD,
    RAW_RESULT,
    RAW_ROW,
    READ_RECORD,
    READ_RESULT,
    READABLE,
    RECORD,
    RESULT,
    ROW,
    WHOLE,
)
from ffcompletion.backends.postgres.names import checked, in_statement, quoted

__all__ = [
    "BACKEND_PID",
    "CHANNEL",
    "CORE",
    "DATABASE",
    "ECHO",
    "LANES",
    "LIMIT",
    "OUTBOX",
    "OWN_MARK",
    "OWN_SETTINGS",
    "SERVER",
    "SERVER_MS",
    "TUNE_LOCALLY",
    "Queries",
    "Query",
]

CHANNEL: Final = "ff_completion"
OUTBOX: Final = "ff_completion_event"
CORE: Final = "ff_exec_core"
LANES: Final = "ff_lane_registry"
OWN_MARK: Final = "ffcompletion producer"
"""The comment by which our own producers' tables are known: in them nothing ends without a row."""
SERVER_MS: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

SERVER: Final = (
    "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), pg_backend_pid(), current_user::text,"
    # The timeline as WAL is written now; the control file lags behind a promotion.
    " CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,"
    " current_setting('jit') = 'off' AND current_setting('max_parallel_workers_per_gather') = '0'"
    " AND current_setting('array_nulls') = 'on',"
    " (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),"
    " CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')"
    " THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '' END"
)
DATABASE: Final = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
ECHO: Final = "SELECT pg_notify(%s, %s)"
BACKEND_PID: Final = "SELECT pg_backend_pid()"
LIMIT: Final = "SELECT set_config('statement_timeout', %s, %s)"
"""The limit, and whether for this transaction alone."""
# Planned once, without parallel workers or compiling: no plan that is made without statistics is worth more. What a role's or a
# database's settings would have otherwise must not end our sessions, make a read wait for others', or read a NULL as a text.
OWN_SETTINGS: Final = (
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),"
    " set_config('max_parallel_workers_per_gather', '0', false), set_config('array_nulls', 'on', false),"
    " set_config('default_transaction_isolation', 'read committed', false), set_config('lock_timeout', '0', false),"
    " set_config('idle_session_timeout', '0', false), CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL"
    " THEN set_config('transaction_timeout', '0', false) END"
)
TUNE_LOCALLY: Final = (
    "SELECT set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),"
    " set_config('array_nulls', 'on', true)"
)


_DESCRIBED_RAW: Final = (
    b"SELECT n, known, convert_to(namespace, e), flow, convert_to(lane, e), convert_to(tags, e), convert_to(phase, e),"
    b" convert_to(reason, e), convert_to(failure, e), ended, convert_to(outcome, e), occurred, result FROM (%b)"
    b" AS q(n, known, namespace, flow, lane, tags, phase, reason, failure, ended, outcome, occurred, result),"
    b" getdatabaseencoding() AS e"
)


@final
class Query(msgspec.Struct, frozen=True):
    """A text, the same for rows whose texts are no UTF8, and which columns those are."""

    text: bytes
    raw: bytes
    columns: tuple[int, ...]


@final
class Queries:
    """The texts for one schema (None: wherever ``search_path`` finds the tables)."""

    def __init__(self, schema: str | None) -> None:
        def name(table: str) -> tuple[str, ...]:
            return (table,) if schema is None else (checked("schema", schema), table)

        names = {"outbox": name(OUTBOX), "core": name(CORE), "lanes": name(LANES)}
        self._names: Final = {place: in_statement(*parts) for place, parts in names.items()}
        self._composed: dict[str, bytes] = {}
        self.schema: Final = schema
        self.outbox_text: Final = quoted(*name(OUTBOX))
        self.core_text: Final = quoted(*name(CORE))
        self.lanes_text: Final = quoted(*name(LANES))

    def compose(self, text: LiteralString) -> bytes:
        """The text, with ``{outbox}``, ``{core}`` and ``{lanes}`` filled in; to be run with parameters, if only ``()``."""
        # Composing costs more than a short query takes, and there are only a handful of texts.
        found = self._composed.get(text)
        if found is None:
            found = self._composed[text] = sql.SQL(text).format(**self._names).as_bytes()
        return found

    def rights(self) -> tuple[LiteralString, tuple[str, str]]:
        """One row: outbox exists, is readable; core exists, is readable; what the outbox is; whether core is partitioned;
        whether row security hides rows of either from us.
        """
        return (
            "SELECT o IS NOT NULL, coalesce(has_table_privilege(o, 'SELECT'), false),"
            " c IS NOT NULL, coalesce(has_table_privilege(c, 'SELECT'), false),"
            " (SELECT relkind::text FROM pg_class WHERE oid = o),"
            " EXISTS (SELECT FROM pg_class WHERE oid = c AND relkind = 'p'),"
            # Where it is turned off for our role, what it would hide is an error.
            " o IS NOT NULL AND hides AND row_security_active(o), c IS NOT NULL AND hides AND row_security_active(c)"
            " FROM (SELECT current_setting('row_security')::boolean AS hides, to_regclass(%s)::oid AS o, to_regclass(%s)::oid AS c) t",
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

    def ids(self) -> bytes:
        """Visible ids in ``(%s, %s]``, ascending, at most ``%s``."""
        return self.compose(
            "SELECT event_id FROM {outbox} WHERE event_id > %s AND event_id <= %s ORDER BY event_id LIMIT %s"
        )

    def page(self) -> Query:
        """Rows after ``%s``, ascending, at most ``%s``; more where several bear the last one's id, in different partitions.

        One bound only: with two, a generic plan expects few rows, reads the whole range and sorts it.
        """
        return self._select(
            " WHERE event_id > %s ORDER BY event_id FETCH FIRST %s ROWS WITH TIES", " ORDER BY e.event_id"
        )

    def page_of_namespaces(self) -> Query:
        """The same page (``%s`` namespaces (text[]), after ``%s``, at most ``%s``) as far as ``%s``, for one filter.

        Rows whose own namespace is another stay at the server, but for the last of the page. Three more columns: rows
        of the page, its highest id, and how many completions stayed.
        """

        def text(columns: LiteralString) -> bytes:
            return self.compose(
                "WITH p AS MATERIALIZED (SELECT event_id, partition_key, execution_id, outcome, occurred_at_ms, flow_id,"  # noqa: S608  # literals only
                " namespace, namespace IS NULL OR namespace = ANY(%s::text[]) AS kept FROM {outbox}"
                " WHERE event_id > %s ORDER BY event_id FETCH FIRST %s ROWS WITH TIES),"
                " l AS (SELECT max(event_id) FILTER (WHERE event_id <= %s) AS id, count(*) AS rows,"
                " max(event_id) AS top FROM p),"
                " n AS (SELECT count(*) AS stayed FROM p, l"
                " WHERE NOT p.kept AND p.outcome <> 'resumable' AND p.event_id < l.id)"
                " SELECT " + columns + ", l.rows, l.top, n.stayed FROM p e CROSS JOIN l CROSS JOIN n"
                " WHERE e.event_id <= l.id AND (e.kept OR e.event_id = l.id) ORDER BY e.event_id"
            )

        return Query(text(ROW), text(RAW_ROW), (2, 5))

    def picked(self) -> Query:
        """Rows whose id is in ``%s`` (bigint[]), in no order."""
        return self._select(" WHERE event_id = ANY(%s) OFFSET 0")

    def records(self, *, results: bool) -> Query:
        """What the records say of executions ``%s`` (smallint[]), ``%s`` (uuid[]), in no order: partition, bare id, …

        ``OFFSET 0`` keeps the planner from making a join of it: one probe for each, whatever the statistics say.
        """

        def text(what: LiteralString, read: LiteralString) -> bytes:
            return self.compose(
                "SELECT w.partition_key, w.execution_id::text, " + read + " FROM"  # noqa: S608  # literals only
                " unnest(%s::smallint[], %s::uuid[]) AS w(partition_key, execution_id)"
                " CROSS JOIN LATERAL (SELECT " + what + " FROM {core} c"
                " WHERE c.partition_key = w.partition_key AND c.execution_id = w.execution_id OFFSET 0) c"
            )

        return _of_records(text, results=results)

    def records_in_partition(self, *, results: bool) -> Query:
        """The same for executions ``%s`` (uuid[]) of one partition, which is named first, ``%s``."""

        def text(what: LiteralString, read: LiteralString) -> bytes:
            return self.compose(
                "SELECT c.partition_key, c.execution_id, " + read + " FROM"  # noqa: S608  # the same
                " (SELECT c.partition_key, c.execution_id::text AS execution_id, " + what + " FROM {core} c"
                " WHERE c.partition_key = %s::smallint AND c.execution_id = ANY(%s::uuid[]) OFFSET 0) c"
            )

        return _of_records(text, results=results)

    def described(self, *, results: bool, among: Sequence[tuple[int, int]] | None = None) -> Query:
        """Executions by partition keys ``%s`` (smallint[]) and ids ``%s`` (uuid[]), each with its newest completion.

        In no order: the first column is the position among those asked for, from 1. Of a few partitions, ``among``: the
        key of each, and how many come before its own, whose ids ``%s`` (uuid[]) are then all that is asked with. The keys
        stand in the text, so that the question is planned for those partitions alone, whatever ``plan_cache_mode`` says.
        """
        text: LiteralString = (
            "SELECT w.n, c.execution_id IS NOT NULL,"
            " CASE WHEN octet_length(coalesce(c.namespace, o.namespace)) <= 4096 THEN coalesce(c.namespace, o.namespace) END,"
            " coalesce(c.flow_id, o.flow_id)::text, c.lane_id, CASE WHEN octet_length(c.tags) <= 16384 THEN c.tags END,"
            " c.lifecycle_phase, c.reason, c.failure, c.terminal_at_ms,"
            # A job that had finished before its table was attached has no row in the outbox.
            " coalesce(o.outcome, c.attached_outcome), o.occurred_at_ms,"
        )
        text += " c.result" if results else " NULL::bytea"
        text += (
            " FROM (SELECT {partition}::smallint AS partition_key, u.execution_id, u.n + {before} AS n"
            " FROM unnest(%s::uuid[]) WITH ORDINALITY AS u(execution_id, n)) AS w"
            if among is not None
            else " FROM unnest(%s::smallint[], %s::uuid[]) WITH ORDINALITY AS w(partition_key, execution_id, n)"
        )
        text += (
            " LEFT JOIN LATERAL (SELECT c.execution_id, c.flow_id, left(c.lane_id, 64) AS lane_id, c.lifecycle_phase,"
            " left(c.cancellation_reason, 32) AS reason, c.terminal_at_ms,"
            " CASE WHEN " + WHOLE + " THEN left(c.raw_fields->>'last_failure_message', 32) END AS failure,"
            " CASE WHEN " + WHOLE + " THEN left(c.raw_fields->>'attached_outcome', 256) END AS attached_outcome, "
        )
        # The result as it is, and how large it is.
        text += RECORD + ", c.result" if results else RECORD
        text += (
            " FROM {core} c WHERE c.partition_key = w.partition_key AND c.execution_id = w.execution_id OFFSET 0) c ON true"
            " LEFT JOIN LATERAL (SELECT e.outcome, e.occurred_at_ms, e.namespace, e.flow_id FROM {outbox} e"
            " WHERE e.partition_key = w.partition_key AND e.execution_id = w.execution_id AND e.outcome <> 'resumable'"
            " AND octet_length(e.outcome) <= 256"
            # Another tenant's row is no end of this execution.
            " AND (e.namespace IS NULL OR (c.whole IS NOT FALSE AND coalesce(e.namespace = c.namespace, true)))"
            " ORDER BY e.event_id DESC LIMIT 1) o ON true"
        )
        if among is None:
            found = self.compose(text)
        else:
            found = b" UNION ALL ".join(self._for_partition(text, key, before) for key, before in among)
        return Query(found, _DESCRIBED_RAW % found, (2, 4, 5, 6, 7, 8, 10))

    def members(self, partition: int | None = None) -> bytes:
        """``partition_key, execution_id`` of flow ``%s``, of one partition or of all; at most ``%s``."""
        text: LiteralString = "SELECT partition_key, execution_id::text FROM {core} WHERE flow_id = %s::uuid"
        if partition is None:
            return self.compose(text + " LIMIT %s")
        return self._for_partition(text + " AND partition_key = {partition}::smallint LIMIT %s", partition)

    def _for_partition(self, text: LiteralString, partition: int, before: int = 0) -> bytes:
        values = {"partition": sql.Literal(partition), "before": sql.Literal(before)}
        return sql.SQL(text).format(**self._names, **values).as_bytes()

    def _select(self, which: LiteralString, order: LiteralString = "") -> Query:
        # The columns as they are below, and what is made of them above: else each partition's scan prepares to make it,
        # which is a third of a wake's cost.
        rows: LiteralString = (
            " FROM (SELECT event_id, partition_key, execution_id, outcome, occurred_at_ms, flow_id, namespace"  # noqa: S608  # literals only
            " FROM {outbox}" + which + ") e" + order
        )
        return Query(self.compose("SELECT " + ROW + rows), self.compose("SELECT " + RAW_ROW + rows), (2, 5))

    def time_at(self) -> bytes:
        """When the newest row at or below ``%s`` was written; else the oldest one that is left. In ms, or no row. Never in
        the future. By the server's own clock: when it occurred is whatever its producer says.
        """
        written: LiteralString = (
            "SELECT CASE WHEN committed_at_ms > 0 THEN committed_at_ms ELSE occurred_at_ms END AS ms"
        )
        return self.compose(
            "SELECT least(t.ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM ("  # noqa: S608  # literals only
            "(" + written + " FROM {outbox} WHERE event_id <= %s AND event_id > 0 ORDER BY event_id DESC LIMIT 1)"
            " UNION ALL"
            " (" + written + " FROM {outbox} WHERE event_id > 0 ORDER BY event_id LIMIT 1) LIMIT 1) t"
        )

    def owners(self) -> LiteralString:
        """Transactions that hold a write lock on one of these relations; parameter: their oids (bigint[]).

        ``virtualtransaction`` names a running transaction, ``-1/xid`` a prepared one.
        """
        return (
            "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted"
            " AND mode = 'RowExclusiveLock' AND relation::bigint = ANY(%s)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )


def _of_records(text: Callable[[LiteralString, LiteralString], bytes], *, results: bool) -> Query:
    what, raw, read = (RESULT, RAW_RESULT, READ_RESULT) if results else (RECORD, RAW_RECORD, READ_RECORD)
    read += ", " + READABLE
    return Query(text(what, read), text(raw, read), (2,) if results else (2, 3))
