"""Stored state of executions and flows, for who asks instead of listening: all of it in one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.replies import (
    PARTITION_COUNT,
    Execute,
    flow_of,
    milliseconds,
    partition_count,
    raise_refusal,
    text_of,
    texts,
    texts_by_name,
)
from ffcompletion.contract.ids import ExecutionId, FlowId, is_execution_id, trusted_execution_id
from ffcompletion.contract.snapshot import ExecutionSnapshot

__all__ = ["describe", "members"]

# Phase and outcome in one read: the outcome goes back to `none` on replay.
_FIELDS: Final = ("namespace", "flow_id", "lane_id", "lifecycle_phase", "terminal_outcome", "completed_at")


async def describe(execute: Execute, ids: Sequence[ExecutionId], *, result: bool) -> list[ExecutionSnapshot | None]:
    """One answer for each id, in order; None where there is no core record. Raises glide's errors."""
    if not ids:
        return []
    commands: list[tuple[str, ...]] = []
    for id_ in ids:
        commands += [("HMGET", keys.core(id_), *_FIELDS), ("HGETALL", keys.tags(id_))]
        if result:
            commands.append(("GET", keys.result(id_)))
    replies = await execute(commands)
    raise_refusal(replies)
    width = 3 if result else 2
    return [
        _snapshot(id_, *replies[start : start + width])
        for id_, start in zip(ids, range(0, len(replies), width), strict=True)
    ]


async def members(execute: Execute, flow: FlowId) -> list[ExecutionId]:
    """The executions of a flow. Raises glide's errors."""
    (count,) = await execute([PARTITION_COUNT])
    replies = await execute([("SMEMBERS", keys.members(flow, partition_count(count)))])
    raise_refusal((count, *replies))
    found = cast("set[object]", replies[0]) if isinstance(replies[0], set) else set[object]()
    return [trusted_execution_id(text) for text in map(text_of, found) if text is not None and is_execution_id(text)]


def _snapshot(id_: ExecutionId, core: object, tags: object, result: object = None) -> ExecutionSnapshot | None:
    fields = texts(core, len(_FIELDS))
    if fields is None:
        return None
    namespace, flow, lane, phase, outcome, completed_at = fields
    if phase is None:
        return None
    terminal = phase == "terminal" and outcome not in (None, "", "none")
    return ExecutionSnapshot(
        execution_id=id_,
        namespace=namespace,
        flow_id=flow_of(flow),
        lane=lane,
        tags=texts_by_name(tags),
        phase=phase,
        terminal_outcome=outcome if terminal else None,
        completed_at_ms=milliseconds(completed_at) if terminal else 0,
        # What a run before a replay left behind is no result of this one.
        result=result if terminal and isinstance(result, bytes) else None,
    )
