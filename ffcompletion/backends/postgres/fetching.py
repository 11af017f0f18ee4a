"""Answers: rows in binary, total whatever bytes are stored. The driver's own settings are left as they were."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import cast, final, overload

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult
from typing_extensions import override

from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.queries import TUNE_LOCALLY, Query
from ffcompletion.backends.postgres.rows import Row

__all__ = ["fetch_outbox", "fetch_page", "fetch_rows", "fetch_selected", "tuned"]

_SelectedRow = tuple[int, str | None, str | None, int | None, str | None, str | None, int, int, int]


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


async def fetch_page(conn: Connection, query: Query, values: Sequence[object], *, prepare: bool) -> Sequence[Row]:
    """The same as ``fetch_outbox``; rows are made as they are taken, so that the next question need not wait for that."""
    try:
        async with conn.cursor(binary=True) as cursor:
            await cursor.execute(query.text, values, prepare=prepare)
            return AnsweredRows(conn, cursor.pgresult)
    except (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter):
        return await fetch_outbox(conn, query, values, prepare=prepare)


@final
class AnsweredRows(Sequence[Row]):
    """Rows of an answer as it came, each made when it is asked for, in C."""

    __slots__ = ("_count", "_transformer")

    def __init__(self, conn: Connection, answer: PGresult | None) -> None:
        self._transformer = Transformer.from_context(conn)
        self._transformer.set_pgresult(answer, set_loaders=True, format=Format.BINARY)
        self._count = 0 if answer is None else answer.ntuples

    @override
    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    @override
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._count)
            return cast("list[Row]", self._transformer.load_rows(start, max(start, stop), tuple))
        at = range(self._count)[index]
        return cast("Row", self._transformer.load_row(at, tuple))


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
