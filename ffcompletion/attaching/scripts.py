"""The same as one script, for people whose migrations are reviewed: nothing is asked of a server, nothing is run."""

from __future__ import annotations

from typing import Final

import msgspec

from ffcompletion.attaching.definition import Definition, table_parts
from ffcompletion.attaching.quoting import dollars, identifier, literal, result_table, table
from ffcompletion.attaching.recording import completed, gone, mended, recorded
from ffcompletion.attaching.rendering import LOCK, PINNED, detaching, shared, triggers
from ffcompletion.producers import text

__all__ = ["attach_sql", "detach_sql"]

_JOBS: Final = "ff_found_table_of_jobs"
_RESULTS: Final = "ff_found_table_of_results"


def attach_sql(definition: Definition, *, schema: str = "public") -> str:
    """Everything that ``attach`` would run, but its checks, in one transaction. Raises ``Validation``.

    What is in the table already is recorded in one go, which keeps writers waiting; with a large table run ``attach``
    instead, which does it in batches.
    """
    definition.checked()
    return "\n".join([
        f"-- ffcompletion: attach {definition.table!r} as {definition.name!r}. Safe to run again.",
        # Each statement sees what was committed before it; and creating the triggers has locked out all writers.
        "BEGIN ISOLATION LEVEL READ COMMITTED;",
        LOCK,
        f"SET LOCAL search_path = {identifier(schema)};",
        text("postgres"),
        PINNED,
        # A row that a policy hides would be told of as one that has gone: an error instead.
        "SET LOCAL bytea_output = 'hex'; SET LOCAL row_security = off;",
        shared(schema),
        # A table without a schema is looked for where you would find it.
        "SET LOCAL search_path TO DEFAULT;",
        triggers(definition, schema),
        _recording(definition, schema),
        "COMMIT;",
        "",
    ])  # fmt: skip


def detach_sql(definition: Definition, *, schema: str = "public") -> str:
    """Everything that ``detach`` would run, in one transaction. Raises ``Validation``."""
    definition.checked()
    return f"-- ffcompletion: detach {definition.name!r}.\nBEGIN;\n{LOCK}\n{PINNED}\n{detaching(definition, schema)}COMMIT;\n"


def _recording(definition: Definition, schema: str) -> str:
    """What is in the table, by nobody's functions but the server's own."""
    # Where a schema is not given, the server looks for it before the search_path is pinned.
    sought: dict[str, str] = {}
    if table_parts(definition.table)[0] is None:
        sought[_JOBS] = table(definition)
    results = result_table(definition)
    if definition.result_table is not None and table_parts(definition.result_table)[0] is None:
        sought[_RESULTS] = results or ""
    found = msgspec.structs.replace(
        definition,
        table=_JOBS if _JOBS in sought else definition.table,
        result_table=_RESULTS if _RESULTS in sought else definition.result_table,
    )
    everything = ("", "", "ALL")
    script = ";\n".join([
        recorded(found, schema, everything, again=True),
        mended(found, schema, everything, None),
        gone(found, schema, None),
        completed(found, schema),
    ])  # fmt: skip
    if not sought:
        return f"{PINNED}\n{script};"
    quote = dollars("sql", script)
    body = "\n".join([
        "DECLARE",
        *(f"    {mark} constant regclass := {literal(name)};" for mark, name in sought.items()),
        f"    script text := {quote}\n{script}{quote};",
        "BEGIN",
        "    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);",
        *(f"    script := replace(script, {literal(identifier(mark))}, {mark}::text);" for mark in sought),
        "    EXECUTE script;",
        "END ",
    ])  # fmt: skip
    quote = dollars("ff", body)
    return f"DO {quote}\n{body}{quote};"
