"""Stored rows, a page at a time, for one stream: paged, stoppable, and patient with a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, cast, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.connection import Connection, deadline, shut_down
from ffcompletion.backends.postgres.queries import Queries, filter_values
from ffcompletion.backends.postgres.rows import Row, decode
from ffcompletion.backends.postgres.session import Pool
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.hub import Group, Selector

__all__ = ["Page", "PageReader"]

_log = logging.getLogger("ffcompletion.postgres")

_PAGE: Final = 2_000
# A selective filter may skip a long stretch of the outbox; this bounds how long one query can take.
_IDS_PER_QUERY: Final = 100_000


@final
class Page(msgspec.Struct, frozen=True):
    """What one read found in ``(after, reached]``."""

    payloads: Sequence[CompletionPayload]
    reached: int
    filtered: int = 0
    undecided: int = 0


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
        upto = min(upto, after + _IDS_PER_QUERY)
        backoff = Backoff(0.05, 2.0)
        while not self._stopped.is_set():
            try:
                return await self._attempt(selector, after, upto, watermark)
            except (psycopg.Error, OSError) as exc:
                if backoff.attempt == 0 and not self._stopped.is_set():
                    _log.warning("reading stored completions failed (%s); trying again", type(exc).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), backoff.next_delay())
        return None

    async def _attempt(self, selector: Selector, after: int, upto: int, watermark: int) -> Page:
        wanted = selector.filter
        pushed = wanted if isinstance(wanted, ScannerFilter) else None
        facts = wanted is not None and pushed is None
        query = self._queries.page(facts=facts, results=selector.results, wanted=pushed)
        values = [after, upto, *filter_values(pushed), _PAGE]
        async with self._pool.connection(timeout=self._timeout_s) as conn:
            self._conn = conn
            try:
                with deadline(conn, self._timeout_s):
                    async with conn.cursor(binary=True) as cursor:
                        await cursor.execute(query, values, prepare=not self._pooled)
                        rows = cast("list[Row]", await cursor.fetchall())
            finally:
                self._conn = None
        reached = rows[-1][0] if len(rows) == _PAGE else upto
        batch = decode(rows, watermark, facts=facts, results=selector.results)
        payloads = batch.with_results if batch.with_results is not None else batch.plain
        if not facts:
            return Page(payloads, reached)
        group = Group(selector)
        return Page(group.select(payloads, batch.facts), reached, group.filtered, group.undecided)
