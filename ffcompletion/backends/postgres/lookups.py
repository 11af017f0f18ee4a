"""Questions about executions' records, a second question beside the outbox's rows: never joined with them.

Both tables are partitioned 256 ways, and in a young system nobody has ever analyzed them: a join is planned as a hash
of two sequential scans, with parallel workers, at every wake. By key, whatever the statistics say, a record costs an
index probe; only the shape of the question depends on how many there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast, final

import msgspec

from ffcompletion.backends.postgres.connection import Connection, deadline
from ffcompletion.backends.postgres.filtering import Record
from ffcompletion.backends.postgres.queries import TUNE_LOCALLY, Queries
from ffcompletion.backends.postgres.rows import salvaged

__all__ = ["Lookups", "Result", "fetch_rows", "tuned"]

# With so many partitions at the most, one statement for each; the other shape opens all of them, a millisecond.
_FEW: Final = 3
# Executions in one question: 2,000 take some 10 ms.
_MOST: Final = 2_000

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
    conn: Connection,
    query: bytes,
    values: Sequence[object],
    *,
    prepare: bool,
    unreadable: Callable[[tuple[object, ...]], tuple[object, ...]],
) -> list[object]:
    """All rows, in binary; one with bytes that are no text is what ``unreadable`` makes of it. Raises driver errors."""
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(query, values, prepare=prepare)
        try:
            return cast("list[object]", await cursor.fetchall())
        except UnicodeDecodeError:
            if cursor.pgresult is None:
                raise
            return cast("list[object]", salvaged(cursor.pgresult, unreadable))


@final
class Lookups:
    """The questions, and in which shape to put them."""

    def __init__(self, queries: Queries, *, prepare: bool, tuned_already: bool, plain: bool) -> None:
        """``plain``: the records' table is not partitioned."""
        self._queries = queries
        self._prepare = prepare
        self._tuned = tuned_already
        self._plain = plain

    async def records(self, conn: Connection, names: Sequence[str], seconds: float) -> dict[str, Record]:
        """The records of these executions, as far as there are any. Raises driver errors, also after ``seconds``."""
        found: dict[str, Record] = {}
        for start in range(0, len(names), _MOST):
            with deadline(conn, seconds):
                async with tuned(conn, already=self._tuned):
                    for row in await self._ask(conn, names[start : start + _MOST], results=False):
                        partition, bare, namespace, tags, size, readable = cast("_RecordRow", row)
                        found[f"{{fp:{partition}}}:{bare}"] = Record(namespace, tags, size, readable)
        return found

    async def results(self, conn: Connection, names: Sequence[str], seconds: float) -> Mapping[str, Result]:
        """The results of these, as far as they are stored. Few at a time: whoever asks knows their sizes."""
        with deadline(conn, seconds):
            async with tuned(conn, already=self._tuned):
                rows = cast("list[_ResultRow]", await self._ask(conn, names, results=True))
        return {f"{{fp:{row[0]}}}:{row[1]}": Result(row[2], row[3], row[4]) for row in rows}

    async def _ask(self, conn: Connection, names: Sequence[str], *, results: bool) -> list[object]:
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for name in names:
            partition, _, bare = name[4:].partition("}:")
            by_partition[int(partition)].append(bare)
        if self._plain or len(by_partition) > _FEW:
            partitions = [partition for partition, bares in by_partition.items() for _ in bares]
            bares = [bare for some in by_partition.values() for bare in some]
            query = self._queries.records(results=results)
            return await fetch_rows(conn, query, (partitions, bares), prepare=self._prepare, unreadable=_unreadable)
        rows: list[object] = []
        query = self._queries.records_in_partition(results=results)
        for number, some in by_partition.items():
            rows += await fetch_rows(conn, query, (number, some), prepare=self._prepare, unreadable=_unreadable)
        return rows


def _unreadable(row: tuple[object, ...]) -> tuple[object, ...]:
    return (*row[:-1], False)
