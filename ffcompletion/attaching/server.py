"""Attach, list and detach on a server: set-up work, run by whoever runs migrations."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, final

import msgspec
import psycopg

from ffcompletion.attaching.checks import Connected, check_table, check_tables_of_ours, check_triggers, run
from ffcompletion.attaching.definition import Definition, table_parts
from ffcompletion.attaching.naming import not_attached
from ffcompletion.attaching.patience import UNHURRIED, patiently
from ffcompletion.attaching.quoting import function_name, identifier, literal, result_table, table
from ffcompletion.attaching.recorder import Progress, Recorded
from ffcompletion.attaching.recorder import record as _record
from ffcompletion.attaching.rendering import LOCK, PINNED, detaching, shared, triggers
from ffcompletion.attaching.watched import Watched
from ffcompletion.backends.postgres.attachments import attachments_query
from ffcompletion.backends.postgres.connection import Target
from ffcompletion.backends.postgres.errors import translated
from ffcompletion.backends.postgres.locking import LOCK_MS
from ffcompletion.contract.errors import Transport, Unavailable, Validation
from ffcompletion.producers import text
from ffcompletion.urls import scheme_of

__all__ = ["Attached", "Progress", "Recorded", "attach", "attached", "detach"]

_OLDEST: Final = 150_000
# Detaching asks once, and waits for so long.
_DETACH_MS: Final = 10_000


@final
class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """One attachment, as the server has it."""

    definition: Definition
    schema: str
    """Where our tables are."""
    working: bool
    """Whether its triggers are there and enabled."""
    jobs: int
    """How many are recorded."""
    finished: int


def attach(
    url: str,
    definition: Definition,
    *,
    schema: str | None = None,
    record: bool = True,
    progress: Progress | None = None,
) -> Recorded:
    """Attach a table of jobs; what was found in it. Safe to run again.

    Our tables, the triggers and the entry come in one transaction, after everything has been checked; what is in the
    table is recorded afterwards, in batches, without announcing it (``record=False`` leaves that out). Attached again
    under the same name, it brings records up to date that no trigger has (disabled, dropped, at fault), and announces
    each end that was missed, once; a job whose row has vanished meanwhile is told as skipped. ``schema`` is where our
    tables are or are to be: None is the first of ``search_path``. Cancelled half-way, it may be run again. Raises
    ``EngineError`` before anything is changed, and ``Unavailable`` when somebody's transaction keeps it from recording.
    """
    definition.checked()
    with _connected(url, "attach") as conn:
        inside = _schema(conn, schema, "attach")
        found, before = patiently(conn, lambda: _attach(conn, definition, inside), definition)
        if not record:
            return Recorded()
        return _record(conn, found, inside, before, _about(conn, found), progress)


def detach(url: str, name: str, *, schema: str | None = None) -> None:
    """Undo an attachment whole: triggers, function, and what was recorded. Raises ``NotFound`` if there is none."""
    with _connected(url, "detach") as conn:
        inside = _schema(conn, schema, "detach")
        with conn.transaction():
            run(conn, f"{UNHURRIED} SET LOCAL lock_timeout = '{_DETACH_MS}ms'; {LOCK} {PINNED}")
            found = _find(conn, inside, name)
            if found is None:
                there = run(conn, f"SELECT name FROM {_registry(inside)} ORDER BY name") if _there(conn, inside) else ()
                raise not_attached(name, (str(each) for (each,) in there))
            run(conn, detaching(found[0], inside))


def attached(url: str, *, schema: str | None = None) -> list[Attached]:
    """What is attached, by name. Raises ``EngineError``."""
    with _connected(url, "attached") as conn:
        inside = _schema(conn, schema, "attached")
        if not _there(conn, inside):
            return []
        with conn.transaction():
            run(conn, f"{UNHURRIED} {PINNED}")
            return [_state(conn, inside, row) for row in run(conn, attachments_query(_registry(inside))).fetchall()]


def _attach(conn: Connected, given: Definition, schema: str) -> tuple[Definition, Definition | None]:
    """Itself, with its tables as they have been found, and what was attached under this name before."""
    with conn.transaction():
        # Looking into the table waits as well, where somebody has locked all of it.
        run(conn, f"{UNHURRIED} SET LOCAL lock_timeout = '{LOCK_MS}ms'; {LOCK}")
        definition = _found(conn, given)
        run(conn, PINNED)
        installed = check_tables_of_ours(conn, schema)
        check_table(conn, definition)
        before = _find(conn, schema, definition.name)
        if before is not None and before[1] not in {None, _oid(conn, definition)}:
            raise Validation(
                "name",
                f"{definition.name!r} is attached to {before[0].table} already; detach it, or use another --name",
            )
        check_triggers(conn, definition, schema)
        if not installed:
            run(conn, f"SET LOCAL search_path = {identifier(schema)}")
            run(conn, text("postgres"))
            run(conn, PINNED)
        run(conn, shared(schema))
        if before is not None and result_table(before[0]) not in {None, result_table(given)}:
            old = identifier(function_name(given.name) + "_result")
            run(conn, f"DROP FUNCTION IF EXISTS {identifier(schema)}.{old}() CASCADE")
        run(conn, triggers(definition, schema, given))
    return definition, before[0] if before is not None else None


def _found(conn: Connected, given: Definition) -> Definition:
    """Tables that are named without a schema are looked for on the ``search_path``, which nothing else is."""

    def found(name: str, quoted: str | None) -> str:
        row = conn.execute(
            "SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)::oid",
            (quoted,),
        ).fetchone()
        return name if row is None or table_parts(name)[0] is not None else str(row[0])

    results = given.result_table
    return msgspec.structs.replace(
        given,
        table=found(given.table, table(given)),
        result_table=None if results is None else found(results, result_table(given)),
    )


def _about(conn: Connected, definition: Definition) -> int:
    row = conn.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = %s", (_oid(conn, definition),)).fetchone()
    return max(0, int(row[0])) if row else 0


def _state(conn: Connected, schema: str, row: tuple[Any, ...]) -> Attached:
    name, _, there, working, definition, _ = row
    counts = run(
        conn,
        f"SELECT count(*), count(*) FILTER (WHERE lifecycle_phase <> 'submitted') FROM {identifier(schema)}.ff_exec_core"
        f" WHERE raw_fields->>'attachment' = {literal(name)}",
    ).fetchone()
    jobs, finished = counts or (0, 0)
    return Attached(
        definition=msgspec.json.decode(definition, type=Definition),
        schema=schema,
        working=bool(there and working),
        jobs=jobs,
        finished=finished,
    )


def _find(conn: Connected, schema: str, name: str) -> tuple[Definition, int | None] | None:
    """The definition, and the table's oid while it is there."""
    if not _there(conn, schema):
        return None
    row = run(conn, attachments_query(_registry(schema), f"a.name = {literal(name)}")).fetchone()
    return None if row is None else (msgspec.json.decode(row[4], type=Definition), row[5])


def _there(conn: Connected, schema: str) -> bool:
    row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (_registry(schema),)).fetchone()
    return bool(row and row[0])


def _oid(conn: Connected, definition: Definition) -> int | None:
    row = conn.execute("SELECT to_regclass(%s)::oid", (table(definition),)).fetchone()
    return row[0] if row else None


def _schema(conn: Connected, schema: str | None, op: str) -> str:
    if schema is None:
        row = conn.execute("SELECT current_schema()").fetchone()
        if row is None or row[0] is None:
            raise Unavailable(op, "no schema of the search_path exists; name one with --schema")
        return str(row[0])
    row = conn.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if row is None:
        raise Validation("schema", f"{schema!r} is not there")
    return schema


def _registry(schema: str) -> str:
    return f"{identifier(schema)}.ff_attachment"


@contextmanager
def _connected(url: str, op: str) -> Generator[Connected]:
    if scheme_of(url) != "postgres":
        raise Validation("url", "tables of jobs are in Postgres: postgresql://…")
    target = Target(url, 8.0)
    try:
        with Watched.to(target.conninfo) as conn:
            if conn.info.server_version < _OLDEST:
                raise Unavailable(op, "PostgreSQL 15 or later is needed")
            yield conn
    except psycopg.errors.LockNotAvailable as exc:
        raise Unavailable(op, "the table, or setting up, is locked by somebody else; try again later") from exc
    except psycopg.Error as exc:
        raise translated(exc, target.shown, op) from exc
    except OSError as exc:
        raise Transport(target.shown, str(exc)) from exc
