"""Stored state of executions and flows, for who asks instead of listening: one query for any number of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Final, cast

from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.fetching import fetch_rows
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.rows import tags_of
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.ids import ExecutionId, FlowId, flow_partition, trusted_execution_id, trusted_flow_id
from ffcompletion.contract.numbers import MOST_MEMBERS
from ffcompletion.contract.snapshot import ExecutionSnapshot

__all__ = ["describe", "members", "outcome_of"]

# partition_key is a smallint: an id beyond it names nothing.
_MOST: Final = 32_767
# The engine's default, which its migrations are written for.
_PARTITIONS: Final = 256
# The engine's words for "it ran out of time", where it leaves no row in the outbox.
_EXPIRED: Final = frozenset({"attempt_timeout", "execution_deadline", "suspension_timeout"})
_TERMINAL: Final = frozenset({"terminal", "cancelled"})

# So many partitions at the most are named in the question, 0.5 ms each; one over all 256 takes 40 ms to be planned.
_FEW: Final = 16

_Row = tuple[
    int, bool, str | None, str | None, str | None, str | None, str | None, str | None, str | None, int | None,
    str | None, int | None, bytes | None,
]  # fmt: skip


async def describe(
    conn: Connection, queries: Queries, ids: Sequence[ExecutionId], *, result: bool, prepare: bool
) -> list[ExecutionSnapshot | None]:
    """One answer for each id, in order; None where neither core nor outbox knows it. Raises driver errors."""
    found: list[ExecutionSnapshot | None] = [None] * len(ids)
    known = [(at, id_) for at, id_ in enumerate(ids) if id_.partition <= _MOST]
    if not known:
        return found
    known.sort(key=_partition)
    groups = [(key, list(some)) for key, some in groupby(known, _partition)]
    if len(groups) <= _FEW:
        before = accumulate((len(some) for _, some in groups), initial=0)
        among = [(key, start) for (key, _), start in zip(groups, before, strict=False)]
        query = queries.described(results=result, among=among)
        values: Sequence[object] = [_bare(some) for _, some in groups]
    else:
        query = queries.described(results=result)
        values = ([id_.partition for _, id_ in known], _bare(known))
    # A text that is no UTF8 is not told, as if it were not there; nothing beside it is touched.
    rows, _ = await fetch_rows(conn, query, values, prepare=prepare)
    for row in cast("list[_Row]", rows):
        at, id_ = known[row[0] - 1]
        found[at] = _snapshot(id_, row)
    return found


def _partition(one: tuple[int, ExecutionId]) -> int:
    return one[1].partition


def _bare(some: Iterable[tuple[int, ExecutionId]]) -> list[str]:
    return [str(id_.uuid) for _, id_ in some]


async def members(conn: Connection, queries: Queries, flow: FlowId) -> list[ExecutionId]:
    """The executions of a flow. Raises driver errors, and ``Unavailable`` for more than ``MOST_MEMBERS``."""
    # There is no index by flow, so the partition that flows are minted into is read first, and alone if it has any.
    for query in (queries.members(flow_partition(flow, _PARTITIONS)), queries.members()):
        values = (str(flow.uuid), MOST_MEMBERS + 1)
        cursor = await conn.execute(query, values, prepare=False)
        rows = cast("list[tuple[int, str]]", await cursor.fetchall())
        if len(rows) > MOST_MEMBERS:
            raise Unavailable("flow_members", f"flow {flow} has more than {MOST_MEMBERS:,} members")
        if rows:
            return [trusted_execution_id(f"{{fp:{partition}}}:{bare}") for partition, bare in rows if partition >= 0]
    return []


def _snapshot(id_: ExecutionId, row: _Row) -> ExecutionSnapshot | None:
    _, has_core, namespace, flow, lane, tags, phase, reason, failure, terminal_at, announced, occurred_at, result = row
    if not has_core and announced is None:
        return None
    # The core may have been cleared away; then the outbox still knows that it finished.
    terminal = phase in _TERMINAL or not has_core
    return ExecutionSnapshot(
        execution_id=id_,
        namespace=namespace,
        flow_id=None if flow is None else trusted_flow_id(flow),
        lane=lane,
        tags=tags_of(tags) or {},
        phase=phase or ("" if has_core else "terminal"),
        terminal_outcome=outcome_of(announced, phase, reason, failure) if terminal else None,
        completed_at_ms=(terminal_at or occurred_at or 0) if terminal else 0,
        result=result if terminal else None,
    )


def outcome_of(announced: str | None, phase: str | None, reason: str | None, failure: str | None) -> str:
    """How a terminal execution ended."""
    # The outbox first; without a row there, what the core says. `public_state` is not to be trusted.
    if announced is not None:
        return announced
    if phase == "cancelled":
        return "cancelled"
    return "expired" if reason in _EXPIRED or failure in _EXPIRED else "failed"
