"""From a definition to SQL: text alone, nothing is asked of a server. Every name is quoted, every value a literal.

The trigger function runs with its owner's rights, because workers need have none on our tables. So it runs nobody
else's code: its ``search_path`` is pinned, and columns are read through their types' output functions (``format``),
never through casts or operators that the table's owner could define.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import msgspec

from ffcompletion.attaching.changes import key_changes, state_changes
from ffcompletion.attaching.definition import PENDING_WORDS, Definition
from ffcompletion.attaching.quoting import (
    byte_for_byte,
    dollars,
    function_name,
    identifier,
    literal,
    result_table,
    table,
)

__all__ = [
    "LOCK",
    "PINNED",
    "definition_json",
    "detaching",
    "facts_of",
    "outcome_of",
    "result_of",
    "shared",
    "stored_result",
    "triggers",
]


def definition_json(definition: Definition) -> str:
    """As it is kept beside the attachment."""
    return msgspec.json.encode(definition).decode()


LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ffcompletion producers', 0));"
"""Whoever else attaches, detaches or installs at this moment comes after us, and finds what we have left."""

PINNED: Final = "SET LOCAL search_path = pg_catalog, pg_temp;"
"""Nobody's functions and operators but the server's own, however well others fit: those on a ``search_path`` may be
anybody's."""


def shared(schema: str) -> str:
    """What all attachments share; safe to run again."""
    text = files("ffcompletion.attaching").joinpath("functions.sql").read_text(encoding="utf-8")
    inside = identifier(schema)
    text = text.replace("$ff$", dollars("ff", inside))
    return text.format(schema=inside, regclass=literal(f"{inside}.ff_exec_core"))


def triggers(definition: Definition, schema: str, given: Definition | None = None) -> str:
    """The trigger function, its triggers, and the attachment's entry; safe to run again.

    ``given``: what is kept as the attachment's definition, where its tables are named otherwise.
    """
    on, name = table(definition), function_name(definition.name)
    function = f"{identifier(schema)}.{identifier(name)}"
    parts = [
        _function(definition, schema, function),
        # The last of an earlier version.
        *(
            f"DROP TRIGGER IF EXISTS {identifier(f'{name}_{of}')} ON {on};"
            for of in ("insert", "state", "key", "delete", "update")
        ),
    ]

    def trigger(of: str, change: str, when: str = "") -> str:
        return (
            f"CREATE TRIGGER {identifier(f'{name}_{of}')} AFTER {change} ON {on}\n"
            f"    FOR EACH ROW {when}EXECUTE FUNCTION {function}();"
        )

    parts.append(trigger("insert", "INSERT"))
    if definition.history is None:
        parts += [
            trigger("state", "UPDATE", f"WHEN ({state_changes(definition)})\n    "),
            trigger("key", f"UPDATE OF {identifier(definition.key)}", f"WHEN ({key_changes(definition)})\n    "),
            trigger("delete", "DELETE"),
        ]
    if definition.result_table is not None:
        parts += _results(definition, schema)
    parts.append(
        f"INSERT INTO {identifier(schema)}.ff_attachment (name, relation_schema, relation_name, definition)\n"
        f"SELECT {literal(definition.name)}, n.nspname, c.relname, {literal(definition_json(given or definition))}::jsonb\n"
        f"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {literal(on)}::regclass::oid\n"
        "ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, relation_schema = excluded.relation_schema,\n"
        "    relation_name = excluded.relation_name;"
    )
    return "\n".join(parts) + "\n"


def detaching(definition: Definition, schema: str) -> str:
    """What undoes it: entry, function, triggers, what was recorded; and, with the last one, what all share."""
    name, inside = function_name(definition.name), identifier(schema)
    of = f"raw_fields->>'attachment' = {literal(definition.name)}"
    core, forgotten = literal(f"{inside}.ff_exec_core"), literal(f"{inside}.ff_attached_forgotten")
    mark = dollars("detach", inside)
    return "\n".join([
        # First: whoever is recording what is in the table waits here, and finds that it is detached.
        f"DELETE FROM {inside}.ff_attachment WHERE name = {literal(definition.name)};",
        # CASCADE: the triggers, whatever their tables are called by now.
        f"DROP FUNCTION IF EXISTS {inside}.{identifier(name)}() CASCADE;",
        f"DROP FUNCTION IF EXISTS {inside}.{identifier(name + '_result')}() CASCADE;",
        f"DELETE FROM {inside}.ff_completion_event e USING {inside}.ff_exec_core c WHERE c.{of}\n"
        "    AND e.partition_key = c.partition_key AND e.execution_id = c.execution_id;",
        f"DELETE FROM {inside}.ff_exec_core WHERE {of};",
        f"DO {mark} BEGIN",
        f"    IF NOT EXISTS (SELECT FROM {inside}.ff_attachment) THEN",
        f"        DROP TABLE {inside}.ff_attachment;",
        f"        IF EXISTS (SELECT FROM pg_class WHERE oid = {core}::regclass AND pg_has_role(relowner, 'USAGE')) THEN",
        f"            DROP TRIGGER IF EXISTS ff_attached_forgotten ON {inside}.ff_exec_core;",
        f"            DROP TRIGGER IF EXISTS ff_attached_emptied ON {inside}.ff_exec_core;",
        "        END IF;",
        f"        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = to_regproc({forgotten})) THEN",
        f"            DROP FUNCTION IF EXISTS {inside}.ff_attached_forgotten;",
        "        END IF;",
        f"        DROP FUNCTION {inside}.ff_attached_record;",
        # Earlier versions had none.
        f"        DROP FUNCTION IF EXISTS {inside}.ff_attached_bytes;",
        f"        DROP FUNCTION {inside}.ff_attached_id;",
        f"        DROP FUNCTION {inside}.ff_attached_uuid;",
        "    END IF;",
        f"END {mark};",
        "",
    ])  # fmt: skip


def outcome_of(definition: Definition, state: str) -> str:
    """The outcome of a state, NULL while it has not finished."""
    finished = "".join(f" WHEN {literal(s)} THEN {literal(o)}" for s, o in definition.outcomes.items())
    # In parentheses: PL/pgSQL takes the first bare THEN for its own.
    return f"(CASE {state}{finished} END)"


def _pending(definition: Definition, state: str) -> str:
    """Whether a state is one of a job that has not finished."""
    words = ("", *(definition.pending or sorted(PENDING_WORDS)))
    read = state if definition.pending else f"pg_catalog.lower({state})"
    return f"{read} IN ({', '.join(map(literal, words))})"


def _namespace(definition: Definition, row: str) -> str:
    if definition.namespace is None:
        return "NULL::text"
    column = f"{row}.{identifier(definition.namespace)}"
    return f"CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END"


def _tags(definition: Definition, row: str) -> str:
    pairs: Mapping[str, str] = {"key": definition.key, **definition.tags}
    tags = ", ".join(
        f"{literal(tag)}, CASE WHEN {row}.{identifier(c)} IS NOT NULL THEN format('%s', {row}.{identifier(c)}) END"
        for tag, c in pairs.items()
    )
    return f"jsonb_strip_nulls(jsonb_build_object({tags}, 'attachment', {literal(definition.name)}))"


def facts_of(definition: Definition, row: str) -> str:
    """What the record of a job that has not finished says of it beside its state."""
    return (
        f"jsonb_strip_nulls(jsonb_build_object('namespace', {_namespace(definition, row)},"
        f" 'tags', {_tags(definition, row)}, 'attachment', {literal(definition.name)}))"
    )


def result_of(definition: Definition, row: str, outcome: str, schema: str) -> str:
    """Bytes: those of a bytea, the text of anything else. NULL where they are in another table, which tells them itself."""
    if definition.result_table is not None:
        return "NULL::bytea"
    good, bad = _bytes(definition.result, row, schema), _bytes(definition.error or definition.result, row, schema)
    return good if good == bad else f"CASE WHEN {outcome} = 'success' THEN {good} ELSE {bad} END"


def stored_result(definition: Definition, row: str, outcome: str, schema: str) -> str:
    """The same, of a job that was there before: from the other table, where it is in one."""
    results = result_table(definition)
    if results is None:
        return result_of(definition, row, outcome, schema)
    return f"(SELECT {_either(definition, 'r', schema)} FROM {results} r WHERE r.{_result_key(definition)} = {row}.{identifier(definition.key)} LIMIT 1)"


def _either(definition: Definition, row: str, schema: str) -> str:
    return f"coalesce({_bytes(definition.result, row, schema)}, {_bytes(definition.error, row, schema)})"


def _result_key(definition: Definition) -> str:
    return identifier(definition.result_key or definition.key)


def _bytes(column: str | None, row: str, schema: str) -> str:
    if column is None:
        return "NULL::bytea"
    value = f"{row}.{identifier(column)}"
    kind, text = f"pg_typeof({value})", f"format('%s', {value})"
    # A bytea's own text begins with \\x where bytea_output is hex, which the function and the session pin. What may be a
    # domain is looked into by a function: a query in its place would cost each text as much.
    return (
        f"CASE WHEN {value} IS NULL THEN NULL"
        f" WHEN {kind} = 'pg_catalog.bytea'::regtype THEN decode(substr({text}, 3), 'hex')"
        f" WHEN {kind} = ANY ('{{text,varchar,json,jsonb}}'::regtype[]) THEN convert_to({text}, 'UTF8')"
        f" ELSE {identifier(schema)}.ff_attached_bytes({kind}, {text}) END"
    )


def _results(definition: Definition, schema: str) -> list[str]:
    """The trigger of the table that results are in: whoever writes both does so in one transaction, the state first."""
    inside, name = identifier(schema), function_name(definition.name) + "_result"
    function, results = f"{inside}.{identifier(name)}", result_table(definition)
    id_ = f"{inside}.ff_attached_uuid({literal(definition.name)}, format('%s', NEW.{_result_key(definition)}))"
    body = f"""
BEGIN
    BEGIN
        UPDATE {inside}.ff_exec_core c SET result = {_either(definition, "NEW", schema)}
        WHERE c.execution_id = {id_} AND c.partition_key = get_byte(uuid_send({id_}), 15)
            AND c.raw_fields->>'attachment' = {literal(definition.name)};
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'ffcompletion: %: a result could not be recorded: %', {literal(definition.name)}, SQLERRM;
    END;
    RETURN NULL;
END """
    return [
        _definer(function, body),
        f"DROP TRIGGER IF EXISTS {identifier(name)} ON {results};",
        f"CREATE TRIGGER {identifier(name)} AFTER INSERT OR UPDATE ON {results}\n"
        f"    FOR EACH ROW EXECUTE FUNCTION {function}();",
    ]


def _function(definition: Definition, schema: str, function: str) -> str:
    inside, name, q = identifier(schema), literal(definition.name), identifier
    state, key = q(definition.state), q(definition.key)

    def record(row: str, outcome: str, came: str, gone: str) -> str:
        flow = f"format('%s', {row}.{q(definition.flow)})" if definition.flow else "NULL"
        # An assignment: PERFORM would have a statement begun and ended for it.
        return (
            f"nothing := {inside}.ff_attached_record({name}, format('%s', {row}.{key}), {outcome}, {flow},\n"
            f"                {_namespace(definition, row)}, {_tags(definition, row)},\n"
            f"                CASE WHEN {outcome} IS NOT NULL THEN {result_of(definition, row, outcome, schema)} END, {came}, {gone});"
        )

    deleted = "".join(f" WHEN {literal(s)} THEN {literal(o)}" for s, o in definition.deleted.items() if s != "*")
    other = literal(definition.deleted.get("*", "cancelled"))
    gone = f"CASE before{deleted} ELSE {other} END" if deleted else other
    body = f"""
DECLARE
    before  text;
    after   text;
    outcome text;
    nothing text;
BEGIN
    -- Whatever goes wrong here is a warning: the job's own transaction must not suffer.
    BEGIN
        -- One condition in another: what is not asked costs nothing.
        IF TG_OP <> 'INSERT' THEN
            before := format('%s', OLD.{state});
        END IF;
        IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE'
            AND {byte_for_byte("OLD", definition.key)} <> {byte_for_byte("NEW", definition.key)}) THEN
            -- What had finished stays known; what had not will not any more.
            IF {outcome_of(definition, "before")} IS NULL THEN
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
        after := format('%s', NEW.{state});
        outcome := {outcome_of(definition, "after")};
        IF outcome IS NULL THEN
            IF NOT {_pending(definition, "after")} THEN
                RAISE WARNING 'ffcompletion: %: job % has the state %, which no outcome is given for', {name},
                    format('%s', NEW.{key}), left(after, 80);
                RETURN NULL;
            END IF;
        END IF;
        IF before IS NOT NULL THEN
            IF outcome IS NOT DISTINCT FROM {outcome_of(definition, "before")} THEN
                -- From a state that has no outcome it comes back as a job that may not be known, or as one that had ended.
                IF outcome IS NOT NULL OR {_pending(definition, "before")} THEN
                    RETURN NULL;
                END IF;
            END IF;
        END IF;
            {record("NEW", "outcome", "before IS NULL", "false")}
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'ffcompletion: %: a job could not be recorded: %', {name}, SQLERRM;
    END;
    RETURN NULL;
END """
    return _definer(function, body)


def _definer(function: str, body: str) -> str:
    mark = dollars("ff", body)
    return (
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        f"    SET search_path = pg_catalog, pg_temp SET bytea_output = 'hex' AS {mark}{body}{mark};\n"
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;"
    )
