"""What stands in an outbox now, for whoever looks at it from outside; reads only, and counts no further than is quick."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, LiteralString, cast

from ffcompletion.backends.postgres.connection import Connection, Target, deadline
from ffcompletion.backends.postgres.doctor_queries import TREE
from ffcompletion.backends.postgres.errors import driver_errors
from ffcompletion.backends.postgres.holders import HOLDERS, Holder
from ffcompletion.backends.postgres.numbering import Numbering
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable

__all__ = ["status"]

_ANSWER_S: Final = 8.0
_COUNTED: Final = 100_000
_LARGEST: Final = (1 << 63) - 1
_LOOK: Final[LiteralString] = (
    "SELECT current_setting('server_version'), pg_is_in_recovery(), to_regclass(%s)::oid::bigint,"
    " to_regclass(%s) IS NOT NULL AND has_table_privilege(to_regclass(%s), 'SELECT'),"
    " (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion'),"
    " (SELECT count(*) FROM pg_stat_activity WHERE query ~* '^LISTEN \"ff_?completion')"
)
_NEWEST: Final[LiteralString] = (
    "SELECT event_id, occurred_at_ms, extract(epoch FROM clock_timestamp()) - occurred_at_ms / 1000.0"
    " FROM {outbox} WHERE event_id > 0 AND event_id <= %s ORDER BY event_id DESC LIMIT 1"
)
# Exactly up to a number that is quick to count; beyond it, about as many as the statistics say.
_ROWS: Final[LiteralString] = "SELECT count(*) FROM (SELECT FROM {outbox} LIMIT %s) counted"
_ABOUT: Final[LiteralString] = (
    "SELECT sum(greatest(c.reltuples, 0))::bigint FROM " + TREE + " tree"  # noqa: S608  # texts of ours alone
    " JOIN pg_class c ON c.oid = tree.relid WHERE tree.isleaf"
)
_LANES: Final[LiteralString] = "SELECT lane_id FROM {lanes} ORDER BY lane_id LIMIT 1000"


async def status(conninfo: str, schema: str | None) -> Mapping[str, object]:
    """Facts by name, in the order to be shown. Raises ``EngineError``."""
    target, queries = Target(conninfo, _ANSWER_S), Queries(schema)
    async with driver_errors(target.shown, "status"):
        conn = await target.connect()
        try:
            with deadline(conn, _ANSWER_S):
                # Nothing can be changed in it, and all of it is one moment.
                await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                return await _asked(conn, queries, target.shown)
        finally:
            conn.pgconn.finish()


async def _asked(conn: Connection, queries: Queries, shown: str) -> Mapping[str, object]:
    numbering = Numbering(queries)
    version, replica, outbox, has_lanes, sessions, listening = cast(
        "tuple[str, bool, int | None, bool, int, int]",
        await _row(conn, _LOOK, (queries.outbox_text, queries.lanes_text, queries.lanes_text)),
    )
    if outbox is None:
        raise Unavailable(
            "status", f"{shown}: there is no table {queries.outbox_text}; `ffcompletion doctor` says more"
        )
    oldest = await _row(conn, numbering.low())
    issued = await _row(conn, *numbering.issued())
    # A row beyond what the sequence has given out is no position.
    upto = issued[0] if issued and issued[0] else _LARGEST
    newest = cast("tuple[int, int, Decimal] | tuple[()]", await _row(conn, queries.compose(_NEWEST), (upto,)))
    (rows,) = cast("tuple[int]", await _row(conn, queries.compose(_ROWS), (_COUNTED + 1,)))
    about: object = rows
    if rows > _COUNTED:
        (estimated,) = cast("tuple[int | None]", await _row(conn, _ABOUT, (outbox,)))
        about = f"about {max(estimated or 0, rows):,}"
    holders = await (await conn.execute(HOLDERS, (outbox, outbox), prepare=False)).fetchall()
    lanes = await (await conn.execute(queries.compose(_LANES), ())).fetchall() if has_lanes else []
    return {
        "server": f"PostgreSQL {version}, {'replica' if replica else 'primary'}",
        "outbox": queries.outbox_text,
        "rows": about,
        "oldest_id": oldest[0] if oldest else None,
        "newest_id": newest[0] if newest else None,
        "newest_age_s": round(float(newest[2]), 3) if newest else None,
        "issued_id": issued[0] if issued else None,
        "cursor": StreamCursor.outbox(newest[0]).to_text() if newest else None,
        "held_by": [Holder.of(row) for row in holders],
        "lanes": [lane for (lane,) in lanes],
        "reader_sessions": sessions,
        "listening": listening,
    }


async def _row(conn: Connection, query: LiteralString | bytes, values: tuple[object, ...] = ()) -> tuple[object, ...]:
    row = await (await conn.execute(query, values, prepare=False)).fetchone()
    return row or ()
