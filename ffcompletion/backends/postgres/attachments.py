"""Which tables of jobs are attached, and whether their triggers work: for whoever lists them, and for the doctor."""

from __future__ import annotations

__all__ = ["attachments_query"]


def attachments_query(registry: str, where: str = "true") -> str:
    """Name, table, whether it is there, whether every trigger that it needs works, the definition, the table's oid.

    ``registry``: the table of attachments, quoted, with its schema; ``where``: which of them.
    """
    # By its name, else by the triggers that a table has kept under another one.
    named = "to_regclass(format('%I.%I', a.relation_schema, a.relation_name))::oid"
    return (
        "SELECT a.name, now.called, jobs.oid IS NOT NULL,"
        " (SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgenabled IN ('O', 'A') AND starts_with(t.tgname::text, mine.prefix)"
        # The table of results is named as whoever attached it found it, on a search path that need not be ours.
        " AND (t.tgrelid = jobs.oid OR (t.tgname = mine.prefix || 'result' AND t.tgparentid = 0))"
        # Another schema may have an attachment of the same name.
        " AND p.pronamespace = mine.space"
        # They write as whoever attached it, who may have lost the right.
        " AND has_any_column_privilege(p.proowner, mine.events, 'INSERT')"
        " AND has_any_column_privilege(p.proowner, mine.records, 'INSERT')"
        " AND has_any_column_privilege(p.proowner, mine.records, 'UPDATE'))"
        # One for each kind of change; a table that has a row for each change only grows. An earlier version had one for all
        # updates.
        " >= CASE WHEN a.definition->>'history' IS NOT NULL THEN 1 WHEN EXISTS (SELECT FROM pg_trigger t"
        " WHERE t.tgrelid = jobs.oid AND t.tgname IN (mine.prefix || 'state', mine.prefix || 'key')) THEN 4 ELSE 3 END"
        " + CASE WHEN a.definition->>'result_table' IS NULL THEN 0 ELSE 1 END"
        # What they read is there.
        " AND NOT EXISTS (SELECT FROM (SELECT value FROM jsonb_each_text(a.definition)"
        " WHERE key IN ('key', 'state', 'namespace', 'flow', 'history')"
        " OR (key IN ('result', 'error') AND a.definition->>'result_table' IS NULL)"
        " UNION SELECT value FROM jsonb_each_text(a.definition->'tags')) c WHERE c.value IS NOT NULL AND NOT EXISTS"
        " (SELECT FROM pg_attribute WHERE attrelid = jobs.oid AND attname = c.value AND NOT attisdropped)),"
        f" CASE WHEN {named} IS NULL THEN jsonb_set(a.definition, '{{table}}', to_jsonb(now.called)) ELSE a.definition"
        f" END::text, jobs.oid::bigint FROM {registry} a,"
        " LATERAL (SELECT 'ff_attached_' || left(encode(sha256(convert_to(a.name, 'UTF8')), 'hex'), 16) || '_' AS prefix,"
        " ours.oid AS space, to_regclass(format('%I.ff_completion_event', ours.nspname))::oid AS events,"
        " to_regclass(format('%I.ff_exec_core', ours.nspname))::oid AS records FROM pg_class registry"
        " JOIN pg_namespace ours ON ours.oid = registry.relnamespace WHERE registry.oid = a.tableoid) mine,"
        f" LATERAL (SELECT coalesce({named}, (SELECT t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgname = mine.prefix || 'insert' AND t.tgparentid = 0 AND p.pronamespace = mine.space LIMIT 1)) AS oid) jobs,"
        " LATERAL (SELECT coalesce((SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = jobs.oid),"
        " format('%I.%I', a.relation_schema, a.relation_name)) AS called) now"
        f" WHERE {where} ORDER BY a.name"
    )
