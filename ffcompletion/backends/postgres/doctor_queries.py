"""The questions that the examination of a Postgres asks. All read catalogues; none takes a lock that hurts."""

from __future__ import annotations

from typing import Final, LiteralString

__all__ = ["ATTACHMENTS", "ROOM", "SEQUENCE", "SERVER", "STATISTICS", "TABLES", "TIMEOUTS", "TREE", "TRIGGERS"]

# A table with its partitions, as it is or alone: of one without any, the server's own function says nothing at all.
TREE: Final[LiteralString] = (
    "(SELECT coalesce(t.relid, c.oid::regclass) AS relid, coalesce(t.isleaf, true) AS isleaf, coalesce(t.level, 0) AS level"
    " FROM pg_class c LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON true WHERE c.oid = %s::oid)"
)

SERVER: Final[LiteralString] = (
    "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),"
    " CASE WHEN pg_is_in_recovery() THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END,"
    " pg_backend_pid(), current_user::text, extract(epoch FROM clock_timestamp())"
)

# oid, name, schema, may use the schema, may read, policies apply, on the search path. What is on it comes first.
TABLES: Final[LiteralString] = (
    "SELECT c.oid::bigint, c.relname::text, n.nspname::text, has_schema_privilege(n.oid, 'USAGE'),"
    " has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid), pg_table_is_visible(c.oid)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname IN ('ff_completion_event', 'ff_exec_core') AND c.relkind IN ('r', 'p')"
    " AND (%s::text IS NULL OR n.nspname = %s::text) ORDER BY pg_table_is_visible(c.oid) DESC, n.nspname"
)

# Shares: notification queue, locks and how many there may be, sessions and how many there may be.
ROOM: Final[LiteralString] = (
    "SELECT pg_notification_queue_usage(), (SELECT count(*) FROM pg_locks WHERE NOT fastpath),"
    " current_setting('max_locks_per_transaction')::int"
    " * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int),"
    " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
    " current_setting('max_connections')::int"
)

TIMEOUTS: Final[LiteralString] = (
    # As this role has them, not as this transaction set them.
    "SELECT name, CASE WHEN name = 'statement_timeout' THEN reset_val ELSE setting END FROM pg_settings"
    " WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout')"
)

# One row for each table that rows land in: its name, its announcing trigger, whether that is enabled. A trigger for each
# statement sits on the table that is named in the INSERT, one for each row on every partition.
TRIGGERS: Final[LiteralString] = (
    "WITH tree AS "  # noqa: S608  # texts of ours alone
    + TREE
    + ", announcing AS (SELECT t.oid, t.tgrelid, t.tgname, t.tgenabled, (t.tgtype & 1) = 1 AS each_row FROM pg_trigger t"
    " JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.prosrc ~ 'pg_notify' AND (t.tgtype & 4) = 4),"
    " statement AS (SELECT 1 FROM announcing JOIN tree ON relid = tgrelid WHERE level = 0 AND NOT each_row)"
    " SELECT tree.relid::regclass::text, a.tgname::text, a.tgenabled::text, CASE WHEN a.tgname IS NULL THEN"
    " (SELECT regexp_replace(pg_get_triggerdef(b.oid), ' ON .*? (?=FOR EACH |REFERENCING )',"
    " format(' ON %%s ', tree.relid::regclass)) FROM announcing b JOIN tree near ON near.relid = b.tgrelid LIMIT 1) END"
    " FROM tree LEFT JOIN announcing a ON a.tgrelid = tree.relid"
    " WHERE CASE WHEN EXISTS (SELECT FROM statement) THEN tree.level = 0 ELSE tree.isleaf END ORDER BY 1"
)

SEQUENCE: Final[LiteralString] = (
    "SELECT s.seqcache, s.seqrelid::regclass::text FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid"
    " WHERE d.refobjid = %s::oid AND d.deptype IN ('a', 'i')"
)

STATISTICS: Final[LiteralString] = (
    "SELECT count(*) FILTER (WHERE c.reltuples < 0), count(*) FROM " + TREE + " tree"  # noqa: S608  # texts of ours alone
    " JOIN pg_class c ON c.oid = tree.relid WHERE tree.isleaf OR tree.level = 0"
)

# The registry's schema, whether there is one, whether it may be read.
ATTACHMENTS: Final[LiteralString] = (
    "SELECT n.nspname::text, r.oid IS NOT NULL, coalesce(has_table_privilege(r.oid, 'SELECT'), false)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
    " LATERAL (SELECT to_regclass(quote_ident(n.nspname) || '.ff_attachment')::oid AS oid) r WHERE c.oid = %s::oid"
)
