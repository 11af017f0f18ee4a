"""Stored rows, a page at a time, for one stream: paged, stoppable, and patient with a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final, final

import msgspec
import psycopg

from ffcompletion.backends.postgres.beneath import Beneath
from ffcompletion.backends.postgres.connection import Connection, abort_reads, deadline
from ffcompletion.backends.postgres.facts import Needs, Records, facts_of
from ffcompletion.backends.postgres.fetching import fetch_outbox, fetch_page, fetch_selected
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.results import Budget, admitted, dispute, stored_sizes
from ffcompletion.backends.postgres.rows import Decoded, Row, decode, with_results
from ffcompletion.backends.postgres.spans import Spans, covers
from ffcompletion.backends.postgres.states import Missing, Read
from ffcompletion.contract.combining import namespaces_of
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.batch import Facts
from ffcompletion.delivery.buffer import Room
from ffcompletion.delivery.hub import Group, Selector
from ffcompletion.foreign.filters import asked_at_once
from ffcompletion.foreign.logs import logger

__all__ = ["Page", "PageReader", "Piece"]

_log: Final = logger("ffcompletion.postgres")

# Each query opens 256 partitions, some 1 ms; 5,000 rows make that little. After a failure fewer are asked for.
_PAGE: Final = 5_000
_SMALLEST_PAGE: Final = 100
# Rows decoded at a time: half a millisecond, after which the loop takes what the server has sent meanwhile. With
# more of them the rows have left the processor's cache before they are consumed (2.0 µs a row with 256, 3.8 with 2,048).
_PIECE: Final = 256


# The server selects while at least this part of a page is for others; most engines' rows name no namespace at all.
_WORTHWHILE: Final = 0.25


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
class Answers(msgspec.Struct, frozen=True):
    """What was looked up for a page's rows."""

    records: Records = {}
    looked_up: frozenset[str] = frozenset()
    results: Mapping[str, Result] | None = None
    """None where nobody asked for them."""

    def facts(self, batch: Decoded) -> list[Facts | None]:
        """What a filter is decided by, for each of these."""
        facts = facts_of(batch.rows, self.records, self.looked_up)
        dispute(batch.payloads, facts, self.results or {})
        return facts


@final
class Page:
    """The rows of ``(after, reached]``, decoded a piece at a time, as they are consumed.

    Decoding a page at once would hold the loop for longer than the socket's buffer lasts, and the server would wait.
    """

    __slots__ = (
        "_answers", "_beneath", "_group", "_missing", "_piece", "_rows", "_stayed", "_taken", "_watermark", "bytes", "reached",
    )  # fmt: skip

    def __init__(
        self,
        rows: Sequence[Row],
        reached: int,
        watermark: int,
        selector: Selector,
        answers: Answers,
        stayed: int = 0,
        missing: Spans | None = None,
        beneath: Beneath | None = None,
    ) -> None:
        """``stayed``: completions that the filter does not admit, and that stayed at the server. ``missing``: what ``beneath``
        is to be told of, ascending, also beyond ``reached``.
        """
        self._missing = [(low, min(high, reached)) for low, high in missing or () if low <= reached]
        self._beneath = beneath
        self._stayed = stayed
        self._rows = rows
        self._taken = 0
        self._watermark = watermark
        self._group = Group(selector)
        self._piece = asked_at_once(selector.filter, _PIECE)
        self._answers = answers
        self.reached: Final = reached
        self.bytes: Final = sum(len(result.data or b"") for result in (answers.results or {}).values())
        """Of results, until the last of it is taken."""

    def __len__(self) -> int:
        """Rows not yet taken."""
        return len(self._rows) - self._taken

    def limit_cursors(self, limit: int) -> None:
        """No payload taken from now on may have a cursor beyond this."""
        self._watermark = min(self._watermark, limit)

    def missed(self) -> Missing:
        """See ``StoredPage``."""
        if not self._missing or self._beneath is None:
            return Missing()
        self.limit_cursors(self._missing[0][0] - 1)
        return Missing(self._missing, self._beneath.missed(self._missing))

    def take(self, most: int) -> Piece:
        """Decode and decide the next piece, so many rows at the most."""
        rows = self._rows[self._taken : self._taken + min(self._piece, most)]
        self._taken += len(rows)
        batch = decode(rows, self._watermark)
        group, before = self._group, (self._group.filtered, self._group.undecided)
        payloads, results = batch.payloads, self._answers.results
        if results is not None:
            payloads = with_results(payloads, {name: result.data for name, result in results.items()})
        payloads = group.select(payloads, None if group.selector.filter is None else self._answers.facts(batch))
        stayed, self._stayed = self._stayed, 0
        return Piece(
            payloads, rows[-1][0], group.filtered - before[0] + stayed, group.undecided - before[1], batch.malformed
        )


@final
class PageReader:
    """Reads for one stream. A failed read is retried, with backoff, until it succeeds or the stream is closed."""

    def __init__(
        self,
        pool: Pool,
        queries: Queries,
        lookups: Lookups,
        beneath: Beneath | None = None,
        *,
        pooled: bool,
        read_timeout_s: float,
    ) -> None:
        """``beneath``: what is to be told of ids that are missing far below."""
        self._beneath = beneath
        self._pool = pool
        self._queries = queries
        self._lookups = lookups
        self._pooled = pooled
        self._timeout_s = read_timeout_s
        self._page = _PAGE
        # Whether enough rows name other namespaces for the server to sort them out.
        self._selective = False
        self._budget = Budget()
        self._conn: Connection | None = None
        self._stopped = asyncio.Event()

    def finish(self) -> None:
        """No read after this one, and no waiting between attempts."""
        self._stopped.set()

    def abort(self) -> None:
        """Make a read that is under way fail at once."""
        if self._conn is not None:
            abort_reads(self._conn)

    async def read(self, selector: Selector, step: Read, room: Room) -> Page | None:
        """The rows that a step asks for, as many as fit a page, and as there is room for; none, where the first of them
        has a result for which there is none.

        None if the stream was closed before an attempt succeeded.
        """
        backoff = Backoff(0.05, 2.0)
        while not self._stopped.is_set():
            try:
                page = await self._attempt(selector, step, room)
            except Exception as exc:  # noqa: BLE001  # whatever it is, the stream is not to stand still, nor to turn in place
                if backoff.attempt == 0 and not self._stopped.is_set():
                    _log.warning("reading stored completions failed (%s); trying again", type(exc).__name__)
                    if not isinstance(exc, psycopg.Error | OSError):
                        _log.exception("an error of our own")
                self._page = max(_SMALLEST_PAGE, self._page // 4)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_delay()):
                        await self._stopped.wait()
            else:
                self._page = min(_PAGE, self._page * 2)
                return page
        return None

    async def _attempt(self, selector: Selector, step: Read, room: Room) -> Page:
        async with self._pool.connection(timeout=self._timeout_s, results=selector.results) as conn:
            self._conn = conn
            try:
                with deadline(conn, self._timeout_s):
                    rows, reached, stayed, missing = await self._rows(conn, selector, step, room.items)
                names = Needs.of([selector]).lookups(rows)
                if not names:
                    answers = Answers(results={} if selector.results else None)
                    return Page(rows, reached, step.limit, selector, answers, stayed, missing, self._beneath)
                records = await self._lookups.records(conn, names, self._timeout_s)
                answers = Answers(records, frozenset(names))
                if selector.results:
                    count, answers = await self._with_results(conn, selector, rows, answers, room)
                    if count < len(rows):
                        rows, reached = rows[:count], rows[count - 1][0] if count else step.after
                return Page(rows, reached, step.limit, selector, answers, stayed, missing, self._beneath)
            finally:
                self._conn = None

    async def _rows(
        self, conn: Connection, selector: Selector, step: Read, most: int
    ) -> tuple[Sequence[Row], int, int, Spans]:
        """The next rows, up to which id that is all, how many completions stayed at the server, and what is missing that
        nobody has looked for.
        """
        after, upto = step.after, step.upto
        limit, prepare = min(self._page, upto - after, most), not self._pooled
        names = _selectable(selector)
        # As it is before the question is put.
        owned = 0 if self._beneath is None else self._beneath.upto
        looked = after >= owned
        if self._selective and names is not None and not step.holes and looked:
            values = (list(names), after, limit, upto)
            selected, (count, top, stayed) = await fetch_selected(
                conn, self._queries.page_of_namespaces(), values, prepare=prepare
            )
            self._selective = stayed >= _WORTHWHILE * count
            # A page that reaches beyond what was asked for has all of that.
            return selected, top if count >= limit and top <= upto else upto, stayed, []
        fetch = fetch_page if selector.filter is None and not selector.results else fetch_outbox
        rows: Sequence[Row] = await fetch(conn, self._queries.page(), (after, limit), prepare=prepare)
        reached = min(rows[-1][0], upto) if len(rows) >= limit else upto
        if names is not None:
            others = sum(row[5] is not None and row[5] not in names for row in rows)
            self._selective = others >= _WORTHWHILE * limit
        missing = [] if looked else Beneath.missing(step, reached, (row[0] for row in rows), owned)
        # The query has no upper bound, and what lies beyond, or in between, is somebody else's to deliver.
        if rows and (rows[-1][0] > upto or step.holes):
            rows = [row for row in rows if row[0] <= upto and not covers(step.holes, (row[0], row[0]))]
        return rows, reached, 0, missing

    async def _with_results(
        self, conn: Connection, selector: Selector, rows: Sequence[Row], answers: Answers, room: Room
    ) -> tuple[int, Answers]:
        """As many of the rows as fit one question about results; and the answer."""
        batch = decode(rows, 0)
        wanted = admitted([selector], batch.payloads, answers.facts(batch))
        sizes = stored_sizes(batch.payloads, wanted, answers.records)
        count = room.fit(sizes[: self._budget.fit(sizes)])
        names = [
            payload.execution_id
            for payload, size in zip(batch.payloads[:count], sizes[:count], strict=True)
            if size is not None
        ]
        found: Mapping[str, Result] = {}
        if names:
            started = time.monotonic()
            try:
                found = await self._lookups.results(
                    conn, list(dict.fromkeys(names)), self._timeout_s * self._budget.patience
                )
            except (psycopg.Error, OSError):
                self._budget.shrink(len(names))
                raise
            self._budget.grow(time.monotonic() - started)
        # Rows that make no completion lie in between, and go with those before them.
        kept = len(rows) if count == len(sizes) else bisect_left(rows, batch.rows[count][0], key=itemgetter(0))
        return kept, msgspec.structs.replace(answers, results=found)


def _selectable(selector: Selector) -> frozenset[str] | None:
    """Namespaces by which the server may select; None where it may not.

    Not with results, whose pages are cut short; and only what every encoding of a server can spell.
    """
    names = None if selector.filter is None or selector.results else namespaces_of(selector.filter)
    return names if names is not None and all(map(str.isascii, names)) else None
