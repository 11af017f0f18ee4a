"""Questions about executions' records, a second question beside the outbox's rows: never joined with them.

Both tables are partitioned 256 ways, and in a young system nobody has ever analyzed them: a join is planned as a hash
of two sequential scans, with parallel workers, at every wake. By key, whatever the statistics say, a record costs an
index probe; only the shape of the question depends on how many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, cast, final

import msgspec

from ffcompletion.backends.postgres.connection import Connection, deadline
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.fetching import fetch_outbox, fetch_rows
from ffcompletion.backends.postgres.queries import Queries, Query
from ffcompletion.backends.postgres.rows import Row

__all__ = ["Lookups", "Result"]

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
                for row, readable in await self._query(conn, names[start : start + _MOST], results=False):
                    partition, bare, namespace, tags, size, whole = cast("_RecordRow", row)
                    found[f"{{fp:{partition}}}:{bare}"] = Record(namespace, tags, size, readable and whole)
        return found

    async def rows(self, conn: Connection, ids: Sequence[int], seconds: float) -> list[Row]:
        """The outbox's rows with these ids (ascending), in order, as far as they are stored."""
        wanted, after, found = frozenset(ids), ids[0] - 1, list[Row]()
        while after < ids[-1]:
            with deadline(conn, seconds):
                page = await fetch_outbox(conn, self._queries.page(), (after, _MOST), prepare=self.prepare)
            found += [row for row in page if row[0] in wanted]
            reached = page[-1][0] if len(page) >= _MOST else ids[-1]
            # What lies between them is nobody's: somebody who commits late may have ids a million apart.
            rest = bisect_right(ids, reached)
            after = ids[-1] if rest == len(ids) else max(reached, ids[rest] - 1)
        return found

    async def results(self, conn: Connection, names: Sequence[str], seconds: float) -> Mapping[str, Result]:
        """The results of these, as far as they are stored. Few at a time: whoever asks knows their sizes."""
        found: dict[str, Result] = {}
        with deadline(conn, seconds):
            for row, readable in await self._query(conn, names, results=True):
                partition, bare, namespace, data, whole = cast("_ResultRow", row)
                found[f"{{fp:{partition}}}:{bare}"] = Result(namespace, data, readable and whole)
        return found

    async def _query(self, conn: Connection, names: Sequence[str], *, results: bool) -> list[tuple[object, bool]]:
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for name in names:
            partition, _, bare = name[4:].partition("}:")
            by_partition[int(partition)].append(bare)
        if self._plain or len(by_partition) > _FEW:
            partitions = [str(partition) for partition, bares in by_partition.items() for _ in bares]
            bares = [bare for some in by_partition.values() for bare in some]
            values = _array(partitions), _array(bares)
            return await self._fetch(conn, self._queries.records(results=results), values)
        rows: list[tuple[object, bool]] = []
        query = self._queries.records_in_partition(results=results)
        for number, some in by_partition.items():
            rows += await self._fetch(conn, query, (number, _array(some)))
        return rows

    async def _fetch(self, conn: Connection, query: Query, values: Sequence[object]) -> list[tuple[object, bool]]:
        rows, unreadable = await fetch_rows(conn, query, values, prepare=self.prepare, tuned_already=self.tuned)
        return [(row, at not in unreadable) for at, row in enumerate(rows)]


def _array(items: Sequence[str]) -> str:
    """An array as the server reads it. Numbers and UUIDs need no quoting, and the driver would look at each of them twice."""
    return f"{{{','.join(items)}}}"
