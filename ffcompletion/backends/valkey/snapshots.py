"""Stored state of executions and flows, for who asks instead of listening: in one pipeline, and another one for tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
from ffcompletion.backends.valkey.scanning import scan_set
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.ids import ExecutionId, FlowId, is_execution_id, trusted_execution_id
from ffcompletion.contract.numbers import MOST_MEMBERS
from ffcompletion.contract.snapshot import ExecutionSnapshot

__all__ = ["describe", "members"]

# Phase and outcome in one read: the outcome goes back to `none` on replay.
_FIELDS: Final = ("namespace", "flow_id", "lane_id", "lifecycle_phase", "terminal_outcome", "completed_at")

# Of one execution, together, as the server keeps them; the engine's are a handful. With more of them none is told.
_MOST_TAGS: Final = 256
_MOST_BYTES: Final = 128 << 10
_SAMPLES: Final = str(_MOST_TAGS)


async def describe(execute: Execute, ids: Sequence[ExecutionId], *, result: bool) -> list[ExecutionSnapshot | None]:
    """One answer for each id, in order; None where there is no core record. Raises glide's errors."""
    if not ids:
        return []
    commands: list[tuple[str, ...]] = []
    for id_ in ids:
        tags = keys.tags(id_)
        # With no more fields than are sampled the size is exact.
        commands += [
            ("HMGET", keys.core(id_), *_FIELDS),
            ("HLEN", tags),
            ("MEMORY", "USAGE", tags, "SAMPLES", _SAMPLES),
        ]
        if result:
            commands.append(("GET", keys.result(id_)))
    replies = await execute(commands)
    width = 4 if result else 3
    found = [replies[start : start + width] for start in range(0, len(replies), width)]
    raise_refusal([reply for core, _, _, *rest in found for reply in (core, *rest)])
    wanted = [id_ for id_, (_, count, size, *_) in zip(ids, found, strict=True) if _is_moderate(count, size)]
    tagged: dict[ExecutionId, object] = {}
    if wanted:
        answers = await execute([("HGETALL", keys.tags(id_)) for id_ in wanted])
        raise_refusal(answers)
        tagged.update(zip(wanted, answers, strict=True))
    return [_snapshot(id_, core, tagged.get(id_), *rest) for id_, (core, _, _, *rest) in zip(ids, found, strict=True)]


def _is_moderate(count: object, size: object) -> bool:
    """Whether there are tags, and no more than anybody has to hold. What may not be asked is as it should be."""
    if isinstance(count, int) and not 0 < count <= _MOST_TAGS:
        return False
    return not isinstance(size, int) or size <= _MOST_BYTES


async def members(execute: Execute, flow: FlowId) -> list[ExecutionId]:
    """The executions of a flow. Raises glide's errors, and ``Unavailable`` for more than ``MOST_MEMBERS``."""
    (count,) = await execute([PARTITION_COUNT])
    raise_refusal((count,))
    found, whole = await scan_set(execute, keys.members(flow, partition_count(count)), MOST_MEMBERS)
    if not whole:
        raise Unavailable("flow_members", f"flow {flow} has more than {MOST_MEMBERS:,} members")
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
