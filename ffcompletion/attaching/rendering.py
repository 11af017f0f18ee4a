"""From a definition to SQL: text alone, nothing is asked of a server. Every name is quoted, every value a literal.

The trigger function runs with its owner's rights, because workers need have none on our tables. So it runs nobody
else's code: its ``search_path`` is pinned, and columns are read through their types' output functions (``format``),
never through casts or operators that the table's owner could define.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Final

import msgspec

from ffcompletion.attaching.definition import PENDING_WORDS, Definition, table_parts

__all__ = [
    "LOCK",
    "batch",
    "definition_json",
    "detaching",
    "function_name",
    "identifier",
    "literal",
    "shared",
    "table",
    "triggers",
]


def identifier(text: str) -> str:
    """Quoted."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """Quoted, whatever ``standard_conforming_strings`` says."""
    if text is None:
        return "NULL"
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def table(definition: Definition) -> str:
    """Its table, quoted."""
    schema, name = table_parts(definition.table)
    return identifier(name) if schema is None else f"{identifier(schema)}.{identifier(name)}"


def function_name(name: str) -> str:
    """Of the trigger function and the triggers of an attachment: names may be as long as identifiers."""
    return f"ff_attached_{sha256(name.encode()).hexdigest()[:16]}"


def definition_json(definition: Definition) -> str:
    """As it is kept beside the attachment."""
    return msgspec.json.encode(definition).decode()


LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ffcompletion producers', 0));"
"""Whoever else attaches, detaches or installs at this moment comes after us, and finds what we have left."""


def shared(schema: str) -> str:
    """What all attachments share; safe to run again."""
    text = files("ffcompletion.attaching").joinpath("functions.sql").read_text(encoding="utf-8")
    return text.format(schema=identifier(schema))


def triggers(definition: Definition, schema: str) -> str:
    """The trigger function, its triggers, and the attachment's entry; safe to run again."""
    on, name = table(definition), function_name(definition.name)
    function = f"{identifier(schema)}.{identifier(name)}"
    moved = f"OLD.{identifier(definition.state)} IS DISTINCT FROM NEW.{identifier(definition.state)}"
    moved += f" OR OLD.{identifier(definition.key)} IS DISTINCT FROM NEW.{identifier(definition.key)}"
    parts = [
        _function(definition, schema, function),
        f"DROP TRIGGER IF EXISTS {identifier(name + '_insert')} ON {on};",
        f"DROP TRIGGER IF EXISTS {identifier(name + '_update')} ON {on};",
        f"DROP TRIGGER IF EXISTS {identifier(name + '_delete')} ON {on};",
        f"CREATE TRIGGER {identifier(name + '_insert')} AFTER INSERT ON {on}\n"
        f"    FOR EACH ROW EXECUTE FUNCTION {function}();",
    ]
    if definition.history is None:
        parts += [
            f"CREATE TRIGGER {identifier(name + '_update')} AFTER UPDATE ON {on}\n"
            f"    FOR EACH ROW WHEN ({moved}) EXECUTE FUNCTION {function}();",
            f"CREATE TRIGGER {identifier(name + '_delete')} AFTER DELETE ON {on}\n"
            f"    FOR EACH ROW EXECUTE FUNCTION {function}();",
        ]
    parts.append(
        f"INSERT INTO {identifier(schema)}.ff_attachment (name, relation_schema, relation_name, definition)\n"
        f"SELECT {literal(definition.name)}, n.nspname, c.relname, {literal(definition_json(definition))}::jsonb\n"
        f"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {literal(on)}::regclass\n"
        "ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, relation_schema = excluded.relation_schema,\n"
        "    relation_name = excluded.relation_name;"
    )
    return "\n".join(parts) + "\n"


def detaching(definition: Definition, schema: str) -> str:
    """What undoes it: triggers, function, what was recorded, the entry; and, with the last one, what all share."""
    on, name, inside = table(definition), function_name(definition.name), identifier(schema)
    of = f"raw_fields->>'attachment' = {literal(definition.name)}"
    return "\n".join([
        *(f"DROP TRIGGER IF EXISTS {identifier(name + kind)} ON {on};" for kind in ("_insert", "_update", "_delete")),
        f"DROP FUNCTION IF EXISTS {inside}.{identifier(name)}();",
        f"DELETE FROM {inside}.ff_completion_event e USING {inside}.ff_exec_core c WHERE c.{of}\n"
        "    AND e.partition_key = c.partition_key AND e.execution_id = c.execution_id;",
        f"DELETE FROM {inside}.ff_exec_core WHERE {of};",
        f"DELETE FROM {inside}.ff_attachment WHERE name = {literal(definition.name)};",
        "DO $detach$ BEGIN",
        f"    IF NOT EXISTS (SELECT FROM {inside}.ff_attachment) THEN",
        f"        DROP TABLE {inside}.ff_attachment;",
        f"        DROP FUNCTION {inside}.ff_attached_record;",
        f"        DROP FUNCTION {inside}.ff_attached_id;",
        f"        DROP FUNCTION {inside}.ff_attached_uuid;",
        "    END IF;",
        "END $detach$;",
        "",
    ])  # fmt: skip


def batch(definition: Definition, schema: str, after: str, limit: str) -> str:
    """Records up to ``limit`` jobs whose key lies after ``after`` (SQL, or empty for the first), without announcing.

    One row: how many were read, and the last key, as text. What a trigger has recorded meanwhile stays. When a job has
    finished is not known: with a time, those that look for ends that nobody announced would take it for one.
    """
    key, state = identifier(definition.key), f"format('%s', j.{identifier(definition.state)})"
    once = f"DISTINCT ON (j.{key}) " if definition.history is not None else ""
    newest = f", j.{identifier(definition.history)} DESC" if definition.history is not None else ""
    where = f" WHERE j.{key} > {after}" if after else ""
    flow = f"format('%s', j.{identifier(definition.flow)})" if definition.flow else "NULL"
    inside, name = identifier(schema), literal(definition.name)
    outcome = _outcome(definition, "state")
    return f"""WITH page AS MATERIALIZED (
    SELECT {once}j.{key} AS ordered, format('%s', j.{key}) AS key, {state} AS state,
        {inside}.ff_attached_uuid({name}, format('%s', j.{key})) AS id,
        {inside}.ff_attached_uuid({name}, nullif({flow}, ''), true) AS flow_id,
        {_facts(definition, "j")} AS facts,
        {_result(definition, "j", _outcome(definition, state))} AS result
    FROM {table(definition)} j{where} ORDER BY j.{key}{newest} LIMIT {limit}
), known AS (
    SELECT *, {outcome} AS outcome, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms FROM page
), recorded AS (
    INSERT INTO {inside}.ff_exec_core (partition_key, execution_id, flow_id, lifecycle_phase, public_state,
        cancellation_reason, created_at_ms, terminal_at_ms, result, raw_fields)
    SELECT get_byte(uuid_send(id), 15), id, flow_id,
        CASE WHEN outcome IS NULL THEN 'submitted' WHEN outcome = 'cancelled' THEN 'cancelled' ELSE 'terminal' END,
        CASE WHEN outcome = 'success' THEN 'completed' ELSE coalesce(outcome, 'waiting') END,
        CASE outcome WHEN 'cancelled' THEN 'requested' END, now_ms, NULL,
        CASE WHEN outcome IS NOT NULL THEN result END,
        facts || CASE WHEN outcome IS NULL THEN '{{}}' ELSE jsonb_build_object('attached_outcome', outcome) END
    FROM known ON CONFLICT (partition_key, execution_id) DO NOTHING
)
SELECT count(*), (SELECT key FROM page ORDER BY ordered DESC LIMIT 1) FROM page"""


def _outcome(definition: Definition, state: str) -> str:
    """The outcome of a state, NULL while it has not finished."""
    finished = "".join(f" WHEN {literal(s)} THEN {literal(o)}" for s, o in definition.outcomes.items())
    # In parentheses: PL/pgSQL takes the first bare THEN for its own.
    return f"(CASE {state}{finished} END)"


def _pending(definition: Definition, state: str) -> str:
    words = definition.pending or sorted(PENDING_WORDS)
    read = state if definition.pending else f"lower({state})"
    return f"{read} IN ({', '.join(map(literal, ['', *words]))})"


def _facts(definition: Definition, row: str) -> str:
    pairs: Mapping[str, str] = {"key": definition.key, **definition.tags}
    tags = ", ".join(
        f"{literal(tag)}, CASE WHEN {row}.{identifier(c)} IS NOT NULL THEN format('%s', {row}.{identifier(c)}) END"
        for tag, c in pairs.items()
    )
    facts = f"jsonb_build_object('tags', jsonb_strip_nulls(jsonb_build_object({tags}, 'attachment', {literal(definition.name)})), 'attachment', {literal(definition.name)})"
    if definition.namespace is None:
        return facts
    column = f"{row}.{identifier(definition.namespace)}"
    return f"jsonb_strip_nulls(jsonb_build_object('namespace', CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END)) || {facts}"


def _result(definition: Definition, row: str, outcome: str) -> str:
    """Bytes: those of a bytea, the text of anything else."""
    good, bad = _bytes(definition.result, row), _bytes(definition.error or definition.result, row)
    return good if good == bad else f"CASE WHEN {outcome} = 'success' THEN {good} ELSE {bad} END"


def _bytes(column: str | None, row: str) -> str:
    if column is None:
        return "NULL::bytea"
    value = f"{row}.{identifier(column)}"
    # A bytea's own text begins with \\x where bytea_output is hex, which the function and the session pin.
    return (
        f"CASE WHEN {value} IS NULL THEN NULL WHEN pg_typeof({value}) = 'pg_catalog.bytea'::regtype"
        f" THEN decode(substr(format('%s', {value}), 3), 'hex') ELSE convert_to(format('%s', {value}), 'UTF8') END"
    )


def _function(definition: Definition, schema: str, function: str) -> str:
    inside, name, q = identifier(schema), literal(definition.name), identifier
    state, key = q(definition.state), q(definition.key)

    def record(row: str, outcome: str, came: str, gone: str) -> str:
        flow = f"format('%s', {row}.{q(definition.flow)})" if definition.flow else "NULL"
        facts = "facts->>'namespace', facts->'tags'"
        return (
            f"facts := {_facts(definition, row)};\n"
            f"            PERFORM {inside}.ff_attached_record({name}, format('%s', {row}.{key}), {outcome}, {flow}, {facts},\n"
            f"                CASE WHEN {outcome} IS NOT NULL THEN {_result(definition, row, outcome)} END, {came}, {gone});"
        )

    deleted = "".join(f" WHEN {literal(s)} THEN {literal(o)}" for s, o in definition.deleted.items() if s != "*")
    other = literal(definition.deleted.get("*", "cancelled"))
    gone = f"CASE before{deleted} ELSE {other} END" if deleted else other
    body = f"""
DECLARE
    before  text;
    after   text;
    outcome text;
    facts   jsonb;
BEGIN
    -- Whatever goes wrong here is a warning: the job's own transaction must not suffer.
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            before := format('%s', OLD.{state});
        END IF;
        IF TG_OP <> 'DELETE' THEN
            after := format('%s', NEW.{state});
        END IF;
        IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND format('%s', OLD.{key}) <> format('%s', NEW.{key})) THEN
            -- What had finished stays known; what had not will not any more.
            IF {_outcome(definition, "before")} IS NULL THEN
            outcome := {gone};
            {record("OLD", "outcome", "false", "true")}
            END IF;
            IF TG_OP = 'DELETE' THEN
                RETURN NULL;
            END IF;
            before := NULL;
        END IF;
        IF NEW.{key} IS NULL THEN
            RAISE WARNING 'ffcompletion: %: a job without a key is not announced', {name};
            RETURN NULL;
        END IF;
        outcome := {_outcome(definition, "after")};
        IF outcome IS NULL AND NOT {_pending(definition, "after")} THEN
            RAISE WARNING 'ffcompletion: %: job % has the state %, which no outcome is given for', {name},
                format('%s', NEW.{key}), left(after, 80);
            RETURN NULL;
        END IF;
        IF before IS NOT NULL AND outcome IS NOT DISTINCT FROM {_outcome(definition, "before")} THEN
            RETURN NULL;
        END IF;
            {record("NEW", "outcome", "before IS NULL", "false")}
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'ffcompletion: %: a job could not be recorded: %', {name}, SQLERRM;
    END;
    RETURN NULL;
END """
    mark = "$ff$"
    while mark in body:
        mark = f"$f{mark[1:]}"
    return (
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        f"    SET search_path = pg_catalog, pg_temp SET bytea_output = 'hex' AS {mark}{body}{mark};\n"
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;"
    )
