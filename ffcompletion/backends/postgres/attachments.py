"""Which tables of jobs are attached, and whether their triggers work: for whoever lists them, and for the doctor."""

from __future__ import annotations

__all__ = ["attachments_query"]


def attachments_query(registry: str, where: str = "true") -> str:
    """Name, table, whether it is there, whether every trigger that it needs works, the definition, the table's oid.

    ``registry``: the table of attachments, quoted, with its schema; ``where``: which of them.
    """
    return (
        "SELECT a.name, format('%I.%I', a.relation_schema, a.relation_name), jobs.oid IS NOT NULL,"
        " (SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgenabled IN ('O', 'A') AND starts_with(t.tgname::text, mine.prefix)"
        # The table of results is named as whoever attached it found it, on a search path that need not be ours.
        " AND (t.tgrelid = jobs.oid OR (t.tgname = mine.prefix || 'result' AND t.tgparentid = 0))"
        # Another schema may have an attachment of the same name.
        " AND p.pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = a.tableoid))"
        # One for each kind of change; a table that has a row for each change only grows.
        " >= CASE WHEN a.definition->>'history' IS NULL THEN 3 ELSE 1 END"
        " + CASE WHEN a.definition->>'result_table' IS NULL THEN 0 ELSE 1 END,"
        f" a.definition::text, jobs.oid::bigint FROM {registry} a,"
        " LATERAL (SELECT to_regclass(format('%I.%I', a.relation_schema, a.relation_name))::oid AS oid) jobs,"
        " LATERAL (SELECT 'ff_attached_' || left(encode(sha256(convert_to(a.name, 'UTF8')), 'hex'), 16) || '_' AS prefix) mine"
        f" WHERE {where} ORDER BY a.name"
    )
