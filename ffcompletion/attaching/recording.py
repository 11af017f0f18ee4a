"""SQL that makes the records agree with the table: what was there before, and what was missed since.

A trigger that is disabled, dropped or at fault misses ends. Attaching again finds them, because a record and its job's
row then disagree, and announces each once. Text alone, as in ``rendering``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.quoting import byte_for_byte, identifier, literal, table
from ffcompletion.attaching.rendering import facts_of, outcome_of, stored_result

__all__ = ["Span", "completed", "differing", "gone", "mended", "recorded", "vanished"]

Span = tuple[str, str, str]
"""Jobs by key, in SQL: behind this one, up to this one (both may be empty), and how many at the most."""

GONE: Final = "skipped"
"""Told of a job whose row has vanished unseen: how it ended cannot be known."""

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


def recorded(definition: Definition, schema: str, span: Span, *, again: bool) -> str:
    """Records the jobs of a span that have no record.

    One row: how many were read, the last key as text, how many ends were told, and how many records differ from their
    jobs. Nothing is told of a first attachment's: what had finished had done so before anybody could listen, and when
    is not known: with a time, those that look for ends that nobody announced would take it for one. A job without a
    record in a table of which every job had one came and went while the triggers were off: that is told.
    """
    inside = identifier(schema)
    return f"""{_page(definition, schema, span, again=again)}, recorded AS (
    INSERT INTO {inside}.ff_exec_core (partition_key, execution_id, flow_id, lifecycle_phase, public_state,
        cancellation_reason, created_at_ms, terminal_at_ms, result, raw_fields)
    SELECT part, id, flow_id, phase, state, reason, now_ms,
        CASE WHEN outcome IS NOT NULL AND {_whole(definition, schema)} THEN now_ms END, result, facts
    FROM known WHERE was IS NULL ON CONFLICT (partition_key, execution_id) DO NOTHING
    RETURNING partition_key, execution_id, flow_id, terminal_at_ms, raw_fields
), told AS (
    INSERT INTO {inside}.ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)
    SELECT partition_key, execution_id, flow_id, raw_fields->>'attached_outcome', raw_fields->>'namespace', terminal_at_ms
    FROM recorded WHERE terminal_at_ms IS NOT NULL RETURNING 1
)
SELECT (SELECT count(*) FROM page), (SELECT key FROM page ORDER BY ordered DESC LIMIT 1), (SELECT count(*) FROM told),
    (SELECT count(*) FROM known WHERE was <> coalesce(outcome, ''))"""


def differing(definition: Definition, schema: str, span: Span) -> str:
    """Locks the records of a span that differ from their jobs, and yields their ids.

    None that somebody else holds: his trigger is about to bring it up to date, and waiting with locks in hand could
    make his transaction the victim of a deadlock. What is locked is looked at anew by ``mended``, in the same
    transaction: whoever changed the job before has committed by then, whoever does afterwards waits.
    """
    return f"""{_page(definition, schema, span, again=True)}
SELECT c.execution_id::text FROM {identifier(schema)}.ff_exec_core c
WHERE (c.partition_key, c.execution_id) IN (SELECT part, id FROM known WHERE was <> coalesce(outcome, ''))
FOR UPDATE OF c SKIP LOCKED"""


def mended(
    definition: Definition, schema: str, span: Span, ids: Sequence[str] | None, before: Definition | None = None
) -> str:
    """Brings the records of a span up to date, those of ``ids`` or all, and announces ends that were missed.

    One row: how many were told. Where an outcome has another name than ``before``, the end itself was told already.
    """
    inside = identifier(schema)
    # What the state meant when its end would have been told.
    meant = "outcome" if before is None else outcome_of(before, "job_state")
    among = "" if ids is None else f" AND k.id = ANY({_uuids(ids)})"
    return f"""{_page(definition, schema, span, again=True)}, mended AS (
    UPDATE {inside}.ff_exec_core c SET flow_id = k.flow_id, lifecycle_phase = k.phase, public_state = k.state,
        cancellation_reason = k.reason, terminal_at_ms = CASE WHEN k.outcome IS NOT NULL THEN k.now_ms END,
        result = k.result, raw_fields = k.facts
    FROM known k WHERE c.partition_key = k.part AND c.execution_id = k.id AND k.was <> coalesce(k.outcome, ''){among}
    RETURNING k.part, k.id, k.flow_id, k.outcome, k.facts->>'namespace' AS namespace, k.now_ms,
        k.outcome IS NOT NULL AND k.was IS DISTINCT FROM {meant} AS missed
), told AS (
    INSERT INTO {inside}.ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)
    SELECT part, id, flow_id, outcome, namespace, now_ms FROM mended WHERE missed RETURNING 1
)
SELECT count(*) FROM told"""


def vanished(definition: Definition, schema: str, limit: str) -> str:
    """Locks records of unfinished jobs whose rows are not there any more, and yields their ids."""
    return (
        f"SELECT c.execution_id::text FROM {identifier(schema)}.ff_exec_core c WHERE {_vanished(definition)}\n"
        f"LIMIT {limit} FOR UPDATE OF c SKIP LOCKED"
    )


def gone(definition: Definition, schema: str, ids: Sequence[str] | None) -> str:
    """Tells of those jobs that they are gone. One row: how many were told."""
    inside = identifier(schema)
    among = "" if ids is None else f" AND c.execution_id = ANY({_uuids(ids)})"
    return f"""WITH ended AS (
    UPDATE {inside}.ff_exec_core c SET lifecycle_phase = 'terminal', public_state = '{GONE}', terminal_at_ms = {_NOW},
        raw_fields = c.raw_fields || '{{"attached_outcome": "{GONE}"}}'
    WHERE {_vanished(definition)}{among}
    RETURNING c.partition_key, c.execution_id, c.flow_id, c.raw_fields->>'namespace' AS namespace, c.terminal_at_ms
), told AS (
    INSERT INTO {inside}.ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)
    SELECT partition_key, execution_id, flow_id, '{GONE}', namespace, terminal_at_ms FROM ended RETURNING 1
)
SELECT count(*) FROM told"""


def completed(definition: Definition, schema: str) -> str:
    """Notes that every job of the table has its record, if it would be noticed that one goes."""
    inside = identifier(schema)
    return (
        f"UPDATE {inside}.ff_attachment SET whole = EXISTS (SELECT FROM pg_trigger"
        f" WHERE tgrelid = {literal(f'{inside}.ff_exec_core')}::regclass::oid AND tgname = 'ff_attached_emptied')"
        f" WHERE name = {literal(definition.name)}"
    )


def _page(definition: Definition, schema: str, span: Span, *, again: bool) -> str:
    """``page`` and ``known``: each job of the span as its row has it; ``was``: the outcome in its record, "" if that is
    unfinished, NULL if there is none (or, the first time, nobody has looked).
    """
    behind, upto, limit = span
    key, state = identifier(definition.key), byte_for_byte("j", definition.state)
    once = f"DISTINCT ON (j.{key}) " if definition.history is not None else ""
    newest = f", j.{identifier(definition.history)} DESC" if definition.history is not None else ""
    bounds = [f"j.{key} {sign} {bound}" for sign, bound in ((">", behind), ("<=", upto)) if bound]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    flow = f"format('%s', j.{identifier(definition.flow)})" if definition.flow else "NULL"
    inside, name = identifier(schema), literal(definition.name)
    # One look into the primary key a job: a join may be planned as a scan of everything for every page.
    was = (
        f"(SELECT coalesce(c.raw_fields->>'attached_outcome', '') FROM {inside}.ff_exec_core c"
        " WHERE c.partition_key = get_byte(uuid_send(page.id), 15) AND c.execution_id = page.id)"
        if again
        else "NULL::text"
    )
    return f"""WITH page AS MATERIALIZED (
    SELECT {once}j.{key} AS ordered, format('%s', j.{key}) AS key, {state} AS job_state,
        {inside}.ff_attached_uuid({name}, format('%s', j.{key})) AS id,
        {inside}.ff_attached_uuid({name}, nullif({flow}, ''), true) AS flow_id,
        {facts_of(definition, "j")} AS described,
        {stored_result(definition, "j", outcome_of(definition, state), schema)} AS stored
    FROM {table(definition)} j{where} ORDER BY j.{key}{newest} LIMIT {limit}
), looked_at AS MATERIALIZED (
    SELECT *, get_byte(uuid_send(id), 15)::smallint AS part, {outcome_of(definition, "job_state")} AS outcome,
        {was} AS was, {_NOW} AS now_ms FROM page
), known AS (
    SELECT *, CASE WHEN outcome IS NULL THEN 'submitted' WHEN outcome = 'cancelled' THEN 'cancelled' ELSE 'terminal' END AS phase,
        CASE WHEN outcome = 'success' THEN 'completed' ELSE coalesce(outcome, 'waiting') END AS state,
        CASE outcome WHEN 'cancelled' THEN 'requested' END AS reason, CASE WHEN outcome IS NOT NULL THEN stored END AS result,
        described || CASE WHEN outcome IS NULL THEN '{{}}' ELSE jsonb_build_object('attached_outcome', outcome) END AS facts
    FROM looked_at
)"""


def _vanished(definition: Definition) -> str:
    return (
        f"c.lifecycle_phase = 'submitted' AND c.raw_fields->>'attachment' = {literal(definition.name)}"
        f" AND NOT EXISTS (SELECT FROM {table(definition)} j"
        f" WHERE {byte_for_byte('j', definition.key)} = c.raw_fields->'tags'->>'key')"
    )


def _whole(definition: Definition, schema: str) -> str:
    return f"(SELECT a.whole FROM {identifier(schema)}.ff_attachment a WHERE a.name = {literal(definition.name)})"


def _uuids(ids: Sequence[str]) -> str:
    return "'{" + ",".join(ids) + "}'::uuid[]"
