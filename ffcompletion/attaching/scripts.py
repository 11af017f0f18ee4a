"""The same as one script, for people whose migrations are reviewed: nothing is asked of a server, nothing is run."""

from __future__ import annotations

from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.quoting import identifier
from ffcompletion.attaching.recording import completed, gone, mended, recorded
from ffcompletion.attaching.rendering import LOCK, detaching, shared, triggers
from ffcompletion.producers import text

__all__ = ["attach_sql", "detach_sql"]


def attach_sql(definition: Definition, *, schema: str = "public") -> str:
    """Everything that ``attach`` would run, but its checks, in one transaction. Raises ``Validation``.

    What is in the table already is recorded in one go, which keeps writers waiting; with a large table run ``attach``
    instead, which does it in batches.
    """
    definition.checked()
    everything = ("", "", "ALL")
    return "\n".join([
        f"-- ffcompletion: attach {definition.table!r} as {definition.name!r}. Safe to run again.",
        # Each statement sees what was committed before it; and creating the triggers has locked out all writers.
        "BEGIN ISOLATION LEVEL READ COMMITTED;",
        LOCK,
        f"SET LOCAL search_path = {identifier(schema)};",
        text("postgres"),
        "SET LOCAL search_path TO DEFAULT;",
        # A row that a policy hides would be told of as one that has gone: an error instead.
        "SET LOCAL bytea_output = 'hex'; SET LOCAL row_security = off;",
        shared(schema),
        triggers(definition, schema),
        recorded(definition, schema, everything, again=True) + ";",
        mended(definition, schema, everything, None) + ";",
        gone(definition, schema, None) + ";",
        completed(definition, schema) + ";",
        "COMMIT;",
        "",
    ])  # fmt: skip


def detach_sql(definition: Definition, *, schema: str = "public") -> str:
    """Everything that ``detach`` would run, in one transaction. Raises ``Validation``."""
    definition.checked()
    return f"-- ffcompletion: detach {definition.name!r}.\nBEGIN;\n{LOCK}\n{detaching(definition, schema)}COMMIT;\n"
