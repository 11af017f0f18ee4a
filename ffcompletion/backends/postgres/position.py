"""Whether a stream may resume at a stored position: nothing after it trimmed, and not from the future."""

from __future__ import annotations

from typing import Final, LiteralString

from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.fetching import fetch_outbox
from ffcompletion.backends.postgres.history import Mark
from ffcompletion.backends.postgres.numbering import Numbering
from ffcompletion.backends.postgres.queries import DATABASE, Queries
from ffcompletion.contract.errors import CursorExpired
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.logs import logger

__all__ = ["check_history", "resume_after", "silent_since"]

# Beyond the interval: the server counts what was written up to 10 s late, clocks lie apart, and a look takes its time.
_FOUND_WITHIN_MS: Final = 60_000

_log: Final = logger("ffcompletion.postgres")
_missing_log: Final = RateLog(_log)

# A sequence that was in use when the server crashed skips up to 32 ids (it logs ahead by that many), and a rolled
# back insert skips one: a short hole below the oldest row need not mean that rows were trimmed.
_INNOCENT_HOLE: Final = 32


async def resume_after(conn: Connection, queries: Queries, event_id: int) -> int:
    """``event_id``, checked against what the outbox holds. Raises ``CursorExpired``."""
    if event_id == 0:
        return 0
    numbering = Numbering(queries)
    oldest = await _id(conn, numbering.low())
    newest = await _id(conn, numbering.high()) or 0
    issued = await _id(conn, *numbering.issued())
    if issued is not None and newest > issued:
        # Rows that the sequence has not come to are none yet.
        newest = await _id(conn, numbering.high_upto(), (issued,)) or 0
        oldest = oldest if newest else None
    if event_id > newest:
        if issued is not None and event_id > issued:
            raise CursorExpired(
                f"event {event_id} lies in the future of this outbox, which is at {issued}: it is of another"
            )
        if issued is not None and issued > event_id and oldest is None:
            raise CursorExpired(f"the outbox is empty, and events {event_id + 1} to {issued} are gone")
        if issued is None:
            # Whether it lies in the future, or what lay behind it was trimmed, only the sequence could tell. Rows beyond
            # the newest there are none of, so beginning there repeats nothing, and passes over nothing that is to come.
            _log.warning(
                "the cursor (event %d) lies beyond the newest row (%d), and this role may not see the sequence (GRANT SELECT"
                " ON SEQUENCE …): it may be of the future; reading from the newest row on",
                event_id,
                newest,
            )
            return newest
    if oldest is not None and oldest > event_id + 1:
        if oldest - event_id - 1 > _INNOCENT_HOLE:
            raise CursorExpired(f"the oldest event left is {oldest}; those from {event_id + 1} on have been trimmed")
        # Whoever resumes names the cursor, as often as he likes: over HTTP that is any client.
        _missing_log.warning(
            f"events {event_id + 1} to {oldest - 1} are missing; whether they were trimmed cannot be told"
        )
    return event_id


async def check_history(conn: Connection, queries: Queries, kept: str) -> None:
    """Raises ``CursorExpired`` where the outbox is not the one that this was kept of; one warning where nothing tells."""
    mark = Mark.parse(kept)
    if mark is None:
        return
    text, values = Numbering(queries).sequence()
    row = await (await conn.execute(text, values, prepare=False)).fetchone()
    database = await (await conn.execute(DATABASE, (), prepare=False)).fetchone()
    if row is None or database is None:
        return
    now = Mark(database[0], row[1] or 0, row[2] or 0)
    rows = (
        [] if mark.witness is None else await fetch_outbox(conn, queries.picked(), ([mark.witness[0]],), prepare=False)
    )
    same = mark.same(now, rows[0][1] if rows else None)
    if same is False:
        raise CursorExpired(
            "it is of another history: the outbox was emptied, restored or replaced since it was stored"
        )
    if same is None:
        _log.warning(
            "the outbox's sequence is not the one that the stored position was taken of; whether its history was"
            " replaced cannot be told"
        )


async def silent_since(conn: Connection, queries: Queries, event_id: int, interval_s: float) -> int | None:
    """From when on (ms) nobody may have been told of ends without a row, where this id was reached; None: the outbox is
    empty. They are looked for every ``interval_s`` seconds: what ended shortly before the row may not have been found.
    """
    row = await (await conn.execute(queries.time_at(), (event_id,), prepare=False)).fetchone()
    return None if row is None else max(0, int(row[0]) - round(interval_s * 1_000) - _FOUND_WITHIN_MS)


async def _id(conn: Connection, query: LiteralString | bytes, values: tuple[object, ...] = ()) -> int | None:
    row = await (await conn.execute(query, values, prepare=False)).fetchone()
    return row[0] if row else None
