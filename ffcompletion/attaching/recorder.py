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
from ffcompletion.attaching.patience import TRIES, UNHURRIED, busy, patiently
from ffcompletion.attaching.quoting import identifier, literal
from ffcompletion.attaching.recording import Span, completed, differing, gone, mended, recorded, vanished
from ffcompletion.attaching.rendering import PINNED
from ffcompletion.backends.postgres.locking import LOCK_MS, PAUSE_S
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
    recorder = _Recorder(conn, definition, schema, before)
    jobs, missed, behind = 0, 0, ""
    while True:
        page = recorded(definition, schema, (behind, "", str(_BATCH)), again=before is not None)
        count, last, told, differ = recorder.read(page)
        jobs += count
        missed += told
        if differ:
            missed += recorder.mend((behind, literal(last), "ALL"))
        if progress is not None and count:
            progress(jobs, max(about, jobs))
        if count < _BATCH:
            break
        behind = literal(last)
    if before is not None:
        missed += recorder.announce_vanished()
    recorder.run_alone(completed(definition, schema))
    return Recorded(jobs=jobs, missed=missed)


@final
class _Recorder:
    """One table's scripts, each in a transaction of its own, tried again where somebody is in the way."""

    def __init__(self, conn: Connected, definition: Definition, schema: str, before: Definition | None) -> None:
        self._conn = conn
        self._definition = definition
        self._schema = schema
        self._before = before

    def read(self, script: str) -> tuple[int, str, int, int]:
        """What ``recorded`` answers."""
        count, last, told, differ = self.run_alone(script) or (0, None, 0, 0)
        return int(count), str(last), int(told), int(differ)

    def run_alone(self, script: str) -> tuple[Any, ...] | None:
        """The first row of the answer, if there is one."""

        def once() -> tuple[Any, ...] | None:
            with self._settled():
                cursor = run(self._conn, script)
                return cursor.fetchone() if cursor.description else None

        return patiently(self._conn, once, self._definition)

    def mend(self, span: Span) -> int:
        """Brings the records of a span up to date; how many ends were told."""
        definition, schema = self._definition, self._schema
        total = 0
        for _ in range(TRIES):
            total += self._announced(
                differing(definition, schema, span), lambda ids: mended(definition, schema, span, ids, self._before)
            )
            _, _, told, differ = self.read(recorded(definition, schema, span, again=True))
            total += told
            if not differ:
                return total
            time.sleep(PAUSE_S)
        raise busy(self._conn, definition)

    def announce_vanished(self) -> int:
        """How many jobs are gone, each of which is told."""
        definition, schema = self._definition, self._schema
        total = 0
        # Those that others hold are being told of by their triggers.
        while told := self._announced(
            vanished(definition, schema, str(_BATCH)), lambda ids: gone(definition, schema, ids)
        ):
            total += told
        return total

    def _announced(self, locking: str, telling: Callable[[list[str]], str]) -> int:
        """How many were told, in one transaction: of those that could be locked at once."""
        count = 0
        with self._settled():
            if ids := [str(id_) for (id_,) in run(self._conn, locking).fetchall()]:
                row = run(self._conn, telling(ids)).fetchone()
                count = int(row[0]) if row else 0
        return count

    @contextmanager
    def _settled(self) -> Generator[None]:
        """One transaction, and for its length alone what it needs: a pooler gives the session to others.

        Nobody detaches meanwhile. Raises ``Unavailable`` where somebody has.
        """
        conn, definition = self._conn, self._definition
        with conn.transaction():
            # Each statement sees what others have committed before it; and bytes are read as the triggers read them.
            run(
                conn,
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL bytea_output = 'hex';"
                f" SET LOCAL lock_timeout = '{LOCK_MS}ms'; {UNHURRIED} {PINNED}",
            )
            registry, name = f"{identifier(self._schema)}.ff_attachment", literal(definition.name)
            try:
                entry = run(conn, f"SELECT FROM {registry} WHERE name = {name} FOR KEY SHARE").rowcount
            except psycopg.errors.UndefinedTable:
                entry = 0
            if not entry:
                raise Unavailable("attach", f"{definition.name!r} was detached meanwhile")
            yield
