"""Questions about executions' records, a second question beside the outbox's rows: never joined with them.

Both tables are partitioned 256 ways, and in a young system nobody has ever analyzed them: a join is planned as a hash
of two sequential scans, with parallel workers, at every wake. By key, whatever the statistics say, a record costs an
index probe; only the shape of the question depends on how many there are.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.connection import Connection, deadline
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.queries import TUNE_LOCALLY, Queries, Query
from ffcompletion.backends.postgres.rows import Row

__all__ = ["Lookups", "Result", "fetch_outbox", "fetch_selected", "tuned"]

# With so many partitions at the most, one statement for each; the other shape opens all of them, a millisecond.
_FEW: Final = 3
# Executions in one question: 2,000 take some 10 ms.
_MOST: Final = 2_000

_SelectedRow = tuple[int, str | None, str | None, int | None, str | None, str | None, int, int, int]
_RecordRow = tuple[int, str, str | None, str | None, int | None, bool]
_ResultRow = tuple[int, str, str | None, bytes | None, bool]


@final
class Result(msgspec.Struct, frozen=True, gc=False):
    """A stored result, and whose it is."""

    namespace: str | None
    data: bytes | None
    readable: bool = True


@asynccontextmanager
async def tuned(conn: Connection, *, already: bool) -> AsyncGenerator[None]:
    """Inside, no parallel workers and no JIT; ``already``: they are off on this connection anyway."""
    if already:
        yield
        return
    # A caller's own connection, or a pooled one, is left as it was: the settings end with the transaction.
    async with conn.transaction():
        await conn.execute(TUNE_LOCALLY)
        yield


async def fetch_rows(
    conn: Connection, query: Query, values: Sequence[object], *, prepare: bool, tuned_already: bool = True
) -> tuple[list[object], frozenset[int]]:
    """All rows, in binary; and the indexes of those with bytes in them that are no text, which are None there.

    A database without an encoding (SQL_ASCII) takes any bytes, and its server then refuses the whole of an answer.
    """
    try:
        return await _fetched(conn, query.text, values, prepare=prepare, tuned_already=tuned_already), frozenset()
    except (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter):
        raw = await _fetched(conn, query.raw, values, prepare=False, tuned_already=tuned_already)
    codec = _codec(conn.info.parameter_status("server_encoding") or "")
    rows: list[object] = []
    unreadable: set[int] = set()
    for number, row in enumerate(cast("list[tuple[object, ...]]", raw)):
        values_of = list(row)
        for column in query.columns:
            data = values_of[column]
            if isinstance(data, bytes):
                try:
                    values_of[column] = data.decode(codec)
                except UnicodeDecodeError:
                    values_of[column] = None
                    unreadable.add(number)
        rows.append(tuple(values_of))
    return rows, frozenset(unreadable)


async def _fetched(
    conn: Connection, text: bytes, values: Sequence[object], *, prepare: bool, tuned_already: bool
) -> list[object]:
    async with tuned(conn, already=tuned_already), conn.cursor(binary=True) as cursor:
        await cursor.execute(text, values, prepare=prepare)
        return cast("list[object]", await cursor.fetchall())


def _codec(encoding: str) -> str:
    """Python's name for a server's encoding; UTF-8 where there is none."""
    try:
        return codecs.lookup(encoding.replace("WIN", "cp") or "utf-8").name
    except LookupError:
        return "utf-8"


async def fetch_outbox(conn: Connection, query: Query, values: Sequence[object], *, prepare: bool) -> list[Row]:
    """Rows of the outbox; one with bytes in it that are no text keeps its id, and makes no completion."""
    found, unreadable = await fetch_rows(conn, query, values, prepare=prepare)
    rows = cast("list[Row]", found)
    for at in unreadable:
        rows[at] = (rows[at][0], None, None, None, None, None)
    return rows


async def fetch_selected(
    conn: Connection, query: Query, values: Sequence[object], *, prepare: bool
) -> tuple[list[Row], tuple[int, int, int]]:
    """The same of a page that was selected at the server: rows of the page, its highest id, how many stayed there."""
    found, unreadable = await fetch_rows(conn, query, values, prepare=prepare)
    selected = cast("list[_SelectedRow]", found)
    rows: list[Row] = [
        (row[0], None, None, None, None, None) if at in unreadable else row[:6] for at, row in enumerate(selected)
    ]
    return rows, selected[0][6:] if selected else (0, 0, 0)


@final
class Lookups:
    """The questions, and in which shape to put them."""

    def __init__(self, queries: Queries, *, prepare: bool, tuned_already: bool, plain: bool) -> None:
        """``plain``: the records' table is not partitioned."""
        self._queries = queries
        self.prepare: bool = prepare
        self.tuned: bool = tuned_already
        self._plain = plain

    async def records(self, conn: Connection, names: Sequence[str], seconds: float) -> dict[str, Record]:
        """The records of these executions, as far as there are any. Raises driver errors, also after ``seconds``."""
        found: dict[str, Record] = {}
        for start in range(0, len(names), _MOST):
            with deadline(conn, seconds):
                for row, readable in await self._ask(conn, names[start : start + _MOST], results=False):
                    partition, bare, namespace, tags, size, whole = cast("_RecordRow", row)
                    found[f"{{fp:{partition}}}:{bare}"] = Record(namespace, tags, size, readable and whole)
        return found

    async def results(self, conn: Connection, names: Sequence[str], seconds: float) -> Mapping[str, Result]:
        """The results of these, as far as they are stored. Few at a time: whoever asks knows their sizes."""
        found: dict[str, Result] = {}
        with deadline(conn, seconds):
            for row, readable in await self._ask(conn, names, results=True):
                partition, bare, namespace, data, whole = cast("_ResultRow", row)
                found[f"{{fp:{partition}}}:{bare}"] = Result(namespace, data, readable and whole)
        return found

    async def _ask(self, conn: Connection, names: Sequence[str], *, results: bool) -> list[tuple[object, bool]]:
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for name in names:
            partition, _, bare = name[4:].partition("}:")
            by_partition[int(partition)].append(bare)
        if self._plain or len(by_partition) > _FEW:
            partitions = [partition for partition, bares in by_partition.items() for _ in bares]
            bares = [bare for some in by_partition.values() for bare in some]
            return await self._fetch(conn, self._queries.records(results=results), (partitions, bares))
        rows: list[tuple[object, bool]] = []
        query = self._queries.records_in_partition(results=results)
        for number, some in by_partition.items():
            rows += await self._fetch(conn, query, (number, some))
        return rows

    async def _fetch(self, conn: Connection, query: Query, values: Sequence[object]) -> list[tuple[object, bool]]:
        rows, unreadable = await fetch_rows(conn, query, values, prepare=self.prepare, tuned_already=self.tuned)
        return [(row, at not in unreadable) for at, row in enumerate(rows)]
