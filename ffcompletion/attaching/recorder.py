"""Recording what is in a table of jobs: page by page, beside its writers, none of whom waits for longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, final

import msgspec
import psycopg

from ffcompletion.attaching.checks import Connected, run
from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.patience import LOCK_MS, PAUSE_S, TRIES, busy, patiently
from ffcompletion.attaching.quoting import identifier, literal
from ffcompletion.attaching.recording import Span, completed, differing, gone, mended, recorded, vanished
from ffcompletion.attaching.rendering import PINNED
from ffcompletion.contract.errors import Unavailable

__all__ = ["Progress", "Recorded", "record"]

Progress = Callable[[int, int], None]
"""Called after each batch of recording: how many jobs were read, and about how many there are."""

_BATCH: Final = 5_000


@final
class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What ``attach`` found in the table."""

    jobs: int = 0
    """How many were there, recorded now or before."""
    missed: int = 0
    """Ends that nobody had been told of since it was attached before; each has been announced now."""


def record(
    conn: Connected,
    definition: Definition,
    schema: str,
    before: Definition | None,
    about: int,
    progress: Progress | None,
) -> Recorded:
    """Everything in the table, which is named with its schema; ``before``: what was attached under this name.

    Raises ``Unavailable``.
    """
    jobs, missed, behind = 0, 0, ""
    while True:
        page = recorded(definition, schema, (behind, "", str(_BATCH)), again=before is not None)
        count, last, told, differ = _read(conn, definition, schema, page)
        jobs += count
        missed += told
        if differ:
            missed += _mend(conn, definition, schema, (behind, literal(last), "ALL"), before)
        if progress is not None and count:
            progress(jobs, max(about, jobs))
        if count < _BATCH:
            break
        behind = literal(last)
    if before is not None:
        missed += _tell_vanished(conn, definition, schema)

    def whole() -> None:
        with _settled(conn, definition, schema):
            run(conn, completed(definition, schema))

    patiently(conn, whole, definition)
    return Recorded(jobs=jobs, missed=missed)


def _mend(conn: Connected, definition: Definition, schema: str, span: Span, before: Definition | None) -> int:
    total = 0
    for _ in range(TRIES):
        total += _told(
            conn,
            definition,
            schema,
            differing(definition, schema, span),
            lambda ids: mended(definition, schema, span, ids, before),
        )
        _, _, told, differ = _read(conn, definition, schema, recorded(definition, schema, span, again=True))
        total += told
        if not differ:
            return total
        time.sleep(PAUSE_S)
    raise busy(conn, definition)


def _tell_vanished(conn: Connected, definition: Definition, schema: str) -> int:
    total = 0
    # Those that others hold are being told of by their triggers.
    while told := _told(
        conn,
        definition,
        schema,
        vanished(definition, schema, str(_BATCH)),
        lambda ids: gone(definition, schema, ids),
    ):
        total += told
    return total


def _told(
    conn: Connected, definition: Definition, schema: str, locking: str, telling: Callable[[list[str]], str]
) -> int:
    """How many were told, in one transaction: of those that could be locked at once."""
    count = 0
    with _settled(conn, definition, schema):
        if ids := [str(id_) for (id_,) in run(conn, locking).fetchall()]:
            row = run(conn, telling(ids)).fetchone()
            count = int(row[0]) if row else 0
    return count


def _read(conn: Connected, definition: Definition, schema: str, script: str) -> tuple[int, str, int, int]:
    def once() -> tuple[Any, ...] | None:
        with _settled(conn, definition, schema):
            return run(conn, script).fetchone()

    row = patiently(conn, once, definition)
    count, last, told, differ = row or (0, None, 0, 0)
    return int(count), str(last), int(told), int(differ)


@contextmanager
def _settled(conn: Connected, definition: Definition, schema: str) -> Generator[None]:
    """One transaction, and for its length alone what it needs: a pooler gives the session to others.

    Nobody detaches meanwhile. Raises ``Unavailable`` where somebody has.
    """
    with conn.transaction():
        # Each statement sees what others have committed before it; and bytes are read as the triggers read them.
        run(
            conn,
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL bytea_output = 'hex';"
            f" SET LOCAL lock_timeout = '{LOCK_MS}ms'; {PINNED}",
        )
        registry, name = f"{identifier(schema)}.ff_attachment", literal(definition.name)
        try:
            entry = run(conn, f"SELECT FROM {registry} WHERE name = {name} FOR KEY SHARE").rowcount
        except psycopg.errors.UndefinedTable:
            entry = 0
        if not entry:
            raise Unavailable("attach", f"{definition.name!r} was detached meanwhile")
        yield
