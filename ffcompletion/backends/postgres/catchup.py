"""Stored rows, a page at a time, for one stream: paged, stoppable, and patient with a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, cast, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.connection import Connection, deadline, shut_down
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import Queries, filter_values
from ffcompletion.backends.postgres.rows import Row, decode
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Group, Selector
from ffcompletion.foreign.logs import logger

__all__ = ["Page", "PageReader", "Piece"]

_log: Final = logger("ffcompletion.postgres")

# Each query opens 256 partitions, some 1 ms; 5,000 rows make that little.
_PAGE: Final = 5_000
# Rows decoded at a time: half a millisecond, after which the loop takes what the server has sent meanwhile. With
# more of them the rows have left the processor's cache before they are consumed (2.0 µs a row with 256, 3.8 with 2,048).
_PIECE: Final = 256
# Rows that one filtered query looks at: a selective filter may admit few of them, or all.
_STRETCH: Final = 5_000


@final
class Piece(msgspec.Struct, frozen=True, gc=False):
    """What part of a page came to."""

    payloads: Sequence[CompletionPayload]
    upto: int
    """The id of its last row."""
    filtered: int
    undecided: int
    malformed: int


@final
class Page:
    """The rows of ``(after, reached]``, decoded a piece at a time, as they are consumed.

    Decoding a page at once would hold the loop for longer than the socket's buffer lasts, and the server would wait.
    """

    __slots__ = ("_facts", "_group", "_next", "_results", "_rows", "_watermark", "reached")

    def __init__(self, rows: Sequence[Row], reached: int, watermark: int, selector: Selector, *, facts: bool) -> None:
        self._rows = rows
        self._watermark = watermark
        # Without facts the server has decided already, or there is nothing to decide.
        self._group = Group(Selector(selector.filter if facts else None))
        self._facts = facts
        self._results = selector.results
        self._next = 0
        self.reached: Final = reached

    def __len__(self) -> int:
        """Rows not yet taken."""
        return len(self._rows) - self._next

    def limit_cursors(self, limit: int) -> None:
        """No payload taken from now on may have a cursor beyond this."""
        self._watermark = min(self._watermark, limit)

    def take(self) -> Piece:
        """Decode and decide the next piece."""
        rows = self._rows[self._next : self._next + _PIECE]
        self._next += len(rows)
        batch = decode(rows, self._watermark, facts=self._facts, results=self._results)
        group, before = self._group, (self._group.filtered, self._group.undecided)
        payloads = group.select(batch.plain if batch.with_results is None else batch.with_results, batch.facts)
        return Piece(payloads, rows[-1][0], group.filtered - before[0], group.undecided - before[1], batch.malformed)


@final
class PageReader:
    """Reads for one stream. A failed read is retried, with backoff, until it succeeds or the stream is closed."""

    def __init__(self, pool: Pool, queries: Queries, *, pooled: bool, read_timeout_s: float) -> None:
        self._pool = pool
        self._queries = queries
        self._pooled = pooled
        self._timeout_s = read_timeout_s
        self._conn: Connection | None = None
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """No read after this one, and no waiting between attempts."""
        self._stopped.set()

    def abort(self) -> None:
        """Make a read that is under way fail at once."""
        if self._conn is not None:
            shut_down(self._conn)

    async def read(self, selector: Selector, after: int, upto: int, watermark: int) -> Page | None:
        """Rows in ``(after, upto]``, as many as fit a page. ``watermark`` bounds the payloads' cursors.

        None if the stream was closed before an attempt succeeded.
        """
        backoff = Backoff(0.05, 2.0)
        while not self._stopped.is_set():
            try:
                return await self._attempt(selector, after, upto, watermark)
            except (psycopg.Error, OSError) as exc:
                if backoff.attempt == 0 and not self._stopped.is_set():
                    _log.warning("reading stored completions failed (%s); trying again", type(exc).__name__)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_delay()):
                        await self._stopped.wait()
        return None

    async def _attempt(self, selector: Selector, after: int, upto: int, watermark: int) -> Page:
        wanted = selector.filter
        if isinstance(wanted, ScannerFilter):
            return await self._matching(selector, wanted, after, upto, watermark)
        facts = wanted is not None
        limit = min(_PAGE, upto - after)
        rows = await self._fetch(self._queries.page(facts=facts, results=selector.results), (after, limit))
        reached = min(rows[-1][0], upto) if len(rows) == limit else upto
        # The query has no upper bound, and what lies beyond is somebody else's to deliver.
        if rows and rows[-1][0] > upto:
            rows = [row for row in rows if row[0] <= upto]
        return Page(rows, reached, watermark, selector, facts=facts)

    async def _matching(self, selector: Selector, wanted: ScannerFilter, after: int, upto: int, watermark: int) -> Page:
        # The server decides, one bounded stretch of rows at a time, however few of them match.
        ((found, *_),) = await self._fetch(self._queries.stretch(), (after, _STRETCH))
        last = cast("int | None", found)
        reached = upto if last is None else min(last, upto)
        query = self._queries.matching(wanted, results=selector.results)
        rows = await self._fetch(query, (after, reached, *filter_values(wanted)))
        return Page(rows, reached, watermark, selector, facts=False)

    async def _fetch(self, query: bytes, values: Sequence[object]) -> list[Row]:
        async with self._pool.connection(timeout=self._timeout_s) as conn:
            self._conn = conn
            try:
                with deadline(conn, self._timeout_s):
                    async with conn.cursor(binary=True) as cursor:
                        await cursor.execute(query, values, prepare=not self._pooled)
                        return cast("list[Row]", await cursor.fetchall())
            finally:
                self._conn = None
