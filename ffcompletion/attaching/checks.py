"""What must hold before anything is changed; each fault is named, with what there is instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection, Cursor, sql

from ffcompletion.attaching.definition import Definition, table_parts
from ffcompletion.attaching.quoting import function_name, identifier, result_table, table
from ffcompletion.contract.errors import Unavailable, Validation

__all__ = ["Connected", "check_table", "check_tables_of_ours", "check_triggers", "run"]

Connected = Connection[tuple[Any, ...]]

_OURS: Final = frozenset({"ff_completion_event", "ff_exec_core", "ff_attachment"})
_KINDS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index",
                 "I": "an index", "c": "a type", "t": "a TOAST table"}  # fmt: skip
# Types whose text does not depend on a session's settings.
_KEYS: Final = frozenset({"smallint", "integer", "bigint", "uuid", "text", "character varying", "numeric", "name"})
_SHOWN: Final = 12


def run(conn: Connected, script: str) -> Cursor[tuple[Any, ...]]:
    """Execute what ``rendering`` or ``recording`` made: every name in it is quoted, and it takes no values."""
    return conn.execute(script.encode())


def check_tables_of_ours(conn: Connected, schema: str) -> bool:
    """Whether our producers' tables are there already. Raises ``Unavailable`` beside FlowFabric's own."""
    row = conn.execute(
        "SELECT obj_description(e.oid, 'pg_class'), e.oid IS NOT NULL, c.oid IS NOT NULL,"
        " has_table_privilege(e.oid, 'SELECT, INSERT, DELETE') AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE')"
        " FROM (SELECT to_regclass(%s)::oid AS oid) e, (SELECT to_regclass(%s)::oid AS oid) c",
        (f"{identifier(schema)}.ff_completion_event", f"{identifier(schema)}.ff_exec_core"),
    ).fetchone()
    mark, events, cores, allowed = row or (None, False, False, None)
    if not events and not cores:
        return False
    if mark != "ffcompletion producer":
        raise Unavailable("attach", f"FlowFabric's own tables are in the schema {schema!r}; use another with --schema")
    if not allowed:
        raise Unavailable("attach", "the role may not write to ff_completion_event and ff_exec_core; use their owner")
    return True


def check_table(conn: Connected, definition: Definition) -> None:
    """The table is one, ours to attach, and has what is named. Raises ``Validation`` or ``Unavailable``."""
    oid = _attachable(conn, definition.table, table(definition))
    types = _columns(conn, definition.table, definition.columns, oid)
    never_null, kind = types[definition.key]
    if not never_null:
        raise Validation("key", f"{definition.key} may be null; a key is NOT NULL and unique")
    if kind not in _KEYS:
        raise Validation("key", f"{definition.key} is a {kind}; a key is a whole number, a UUID or a text")
    if definition.history is None:
        _unique(conn, definition, oid)
    _states(conn, definition, oid, types[definition.state][1])
    if definition.result_table is not None:
        _results(conn, definition, definition.result_table, kind)


def check_triggers(conn: Connected, definition: Definition, schema: str) -> None:
    """Raises ``Validation`` where the table has an attachment of this name that another schema knows of."""
    row = conn.execute(
        "SELECT n.nspname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE t.tgrelid = to_regclass(%s) AND t.tgname = %s AND n.nspname <> %s",
        (table(definition), f"{function_name(definition.name)}_insert", schema),
    ).fetchone()
    if row is not None:
        raise Validation(
            "name",
            f"{definition.name!r} is attached from the schema {row[0]} already; detach it there, or use another --name",
        )


def _results(conn: Connected, definition: Definition, shown: str, key_kind: str) -> None:
    oid = _attachable(conn, shown, result_table(definition) or "")
    columns = definition.result_columns
    _, kind = _columns(conn, shown, columns, oid)[columns[0]]
    if kind != key_kind:
        raise Validation("result_key", f"{shown}.{columns[0]} is a {kind}, and the key is a {key_kind}")


def _attachable(conn: Connected, shown: str, quoted: str) -> int:
    oid = _value(conn, "SELECT to_regclass(%s)::oid", quoted)
    if oid is None:
        raise Validation("table", f"{shown} is not there{_similar(conn, shown)}")
    row = conn.execute(
        "SELECT c.relkind::text, c.relpersistence::text, c.relispartition, n.nspname, c.relname,"
        " pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid),"
        " (SELECT min(i.inhrelid::regclass::text) FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'r')"
        " FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        (oid,),
    ).fetchone()
    if row is None:
        raise Validation("table", f"{shown} is not there")
    kind, persistence, partition, schema, name, owner, owned, hidden, heir = row
    if name in _OURS or schema in {"pg_catalog", "information_schema"}:
        raise Validation("table", f"{shown} is no table of jobs")
    if kind not in {"r", "p"}:
        raise Validation("table", f"{shown} is {_KINDS.get(kind, 'no table')}; a trigger needs the table behind it")
    if persistence == "t":
        raise Validation("table", f"{shown} is temporary")
    if partition:
        raise Validation("table", f"{shown} is a partition; attach the table that it is a part of")
    if not owned:
        raise Unavailable("attach", f"{shown} belongs to {owner}; attach it as that role")
    if heir is not None:
        raise Validation(
            "table", f"{shown} has rows in {heir}, which its triggers do not see; attach that table instead"
        )
    if hidden:
        # A row that is not seen would be told of as one that has gone.
        raise Unavailable(
            "attach",
            f"policies hide rows of {shown} from its owner too; ALTER TABLE {quoted} NO FORCE ROW LEVEL SECURITY;",
        )
    return oid


def _columns(conn: Connected, shown: str, columns: Sequence[str], oid: int) -> dict[str, tuple[bool, str]]:
    """Whether it is never null, and its type, of each column that is there; those that are named must be."""
    rows = conn.execute(
        "SELECT attname, attnotnull, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL), attgenerated = 'v'"
        " FROM pg_attribute"
        " JOIN pg_type t ON t.oid = atttypid WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (oid,),
    ).fetchall()
    there = {name: (never_null, kind) for name, never_null, kind, _ in rows}
    virtual = {name for name, _, _, computed in rows if computed}
    for column in columns:
        if column not in there:
            raise Validation("column", f"{shown} has no column {column!r}; it has {', '.join(there)}")
        if column in virtual:
            raise Validation(
                "column", f"{column} is a virtual generated column, which no trigger can read; make it STORED"
            )
    return there


def _unique(conn: Connected, definition: Definition, oid: int) -> None:
    # In a partitioned table a unique index has the partition keys' columns as well, of each level.
    found = _value(
        conn,
        "SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = %s"
        " WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL"
        " AND a.attnum = ANY((i.indkey::int2[])[:i.indnkeyatts - 1]) AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, at)"
        " JOIN pg_attribute c ON c.attrelid = i.indrelid AND c.attnum = k.n"
        " WHERE k.at <= i.indnkeyatts AND k.n <> a.attnum AND c.attname NOT IN (SELECT b.attname"
        " FROM pg_partition_tree(i.indrelid) t JOIN pg_partitioned_table p ON p.partrelid = t.relid"
        " JOIN pg_attribute b ON b.attrelid = p.partrelid AND b.attnum = ANY(p.partattrs::int2[])))",
        definition.key,
        oid,
    )
    if not found:
        raise Validation("key", f"{definition.key} is not unique: no unique index is on it alone")


def _possible(conn: Connected, definition: Definition, oid: int, named: Sequence[str]) -> None:
    """Raises ``Validation`` for a state that is never the text of the column's type (``true`` of a boolean, say)."""
    row = conn.execute(
        "SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        # A type of the user's own has code of its own, which we do not run.
        " WHERE a.attrelid = %s AND a.attname = %s AND t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace",
        (oid, definition.state),
    ).fetchone()
    if row is None:
        return
    for state in named:
        query = sql.SQL("SELECT format('%%s', CAST(%s::text AS {}))").format(sql.SQL(row[0]))
        try:
            (read,) = conn.execute(query, (state,)).fetchone() or (None,)
        except psycopg.DataError as exc:
            raise Validation("state", f"{definition.state} is never {state!r}: its type is {row[0]}") from exc
        if read != state:
            raise Validation("state", f"{definition.state} is never {state!r}: as {row[0]} it is {read!r}")


def _states(conn: Connected, definition: Definition, oid: int, kind: str) -> None:
    labels = conn.execute(
        "SELECT e.enumlabel FROM pg_attribute a JOIN pg_enum e ON e.enumtypid = a.atttypid"
        " WHERE a.attrelid = %s AND a.attname = %s ORDER BY e.enumsortorder",
        (oid, definition.state),
    ).fetchall()
    named = [*definition.outcomes, *definition.pending, *(state for state in definition.deleted if state != "*")]
    _possible(conn, definition, oid, named)
    if labels or kind == "boolean":
        there = [label for (label,) in labels] or ["f", "t"]
        if wrong := [state for state in named if state not in there]:
            raise Validation("state", f"{definition.state} is never {wrong[0]!r}; it may be {', '.join(there)}")
    else:
        query = "SELECT DISTINCT format('%s', {}) COLLATE \"C\" FROM {} LIMIT 1000"
        rows = conn.execute(
            sql.SQL(query).format(sql.Identifier(definition.state), sql.Identifier(*_parts(definition)))
        ).fetchall()
        there = sorted(state for (state,) in rows)
    unknown = [state for state in there if state not in definition.outcomes and not definition.is_pending(state)]
    if unknown:
        shown = ", ".join(repr(state) for state in there[:_SHOWN]) + (", …" if len(there) > _SHOWN else "")
        raise Validation(
            "state",
            f"no outcome is given for {', '.join(map(repr, unknown[:_SHOWN]))}: name what has finished with"
            f" --outcome STATE=OUTCOME and what has not with --pending STATE; the table has {shown}",
        )


def _parts(definition: Definition) -> list[str]:
    schema, name = table_parts(definition.table)
    return [name] if schema is None else [schema, name]


def _similar(conn: Connected, shown: str) -> str:
    schema, name = table_parts(shown)
    rows = conn.execute(
        "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%%'"
        " AND (lower(relname) = lower(%s) OR nspname = %s) ORDER BY lower(relname) = lower(%s) DESC, 1 LIMIT 5",
        (name, schema, name),
    ).fetchall()
    return f"; there is {', '.join(row[0] for row in rows)}" if rows else ""


def _value(conn: Connected, query: LiteralString, *values: object) -> int | None:
    row = conn.execute(query, values).fetchone()
    return None if row is None else row[0]
