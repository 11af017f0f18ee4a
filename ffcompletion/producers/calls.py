"""Calls of the producers' Lua functions, spelled out: keys and arguments that fit each other.

The words go to any client: ``client.custom_command(call)`` with glide, ``client.execute_command(*call)`` with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.ids import PARTITIONS, ExecutionId, FlowId, flow_partition
from ffcompletion.contract.payload import Outcome

__all__ = ["Call", "completion_call", "forgetting_call", "submission_call"]

Call = list[str | bytes | bytearray | memoryview]
"""The words of one call, of which ours are text and bytes: just what glide's ``custom_command`` takes."""

_LONGEST_LANE: Final = 64


def completion_call(
    execution_id: str,
    outcome: str,
    *,
    flow_id: str | None = None,
    namespace: str = "",
    lane: str = "default",
    result: bytes | str = b"",
    tags: Mapping[str, str] | None = None,
) -> Call:
    """``FCALL ffcompletion_complete …``: the execution has finished. Raises ``Validation``.

    The reply is 1, or 0 if it had finished already. What was said when it was submitted holds, unless said anew.
    """
    known = [each.value for each in Outcome if each is not Outcome.OTHER]
    if outcome not in known:
        raise Validation("outcome", f"must be one of {', '.join(known)}")
    keys, flow = _keys(execution_id, flow_id, lane)
    return [
        "FCALL",
        "ffcompletion_complete",
        str(len(keys)),
        *keys,
        execution_id,
        flow,
        namespace,
        lane,
        outcome,
        result,
        *_pairs(tags),
    ]


def submission_call(
    execution_id: str,
    *,
    flow_id: str | None = None,
    namespace: str = "",
    lane: str = "default",
    tags: Mapping[str, str] | None = None,
) -> Call:
    """``FCALL ffcompletion_submit …``: the execution is known, and has not finished. Raises ``Validation``."""
    keys, flow = _keys(execution_id, flow_id, lane)
    return [
        "FCALL",
        "ffcompletion_submit",
        str(len(keys)),
        *keys,
        execution_id,
        flow,
        namespace,
        lane,
        *_pairs(tags),
    ]


def forgetting_call(
    execution_id: str, before_ms: int, *, unfinished: bool = False, lane: str = "default"
) -> list[str | bytes]:
    """``FCALL ffcompletion_forget …``: clear it away if it is older than that. Raises ``Validation``."""
    keys, _ = _keys(execution_id, None, lane)
    kind = "unfinished" if unfinished else "terminal"
    return ["FCALL", "ffcompletion_forget", "5", *keys, execution_id, lane, str(before_ms), kind]


def _keys(execution_id: str, flow_id: str | None, lane: str) -> tuple[list[str], str]:
    parsed = ExecutionId(execution_id)
    partition = parsed.partition
    tag = f"{{fp:{partition}}}"
    if partition >= PARTITIONS or parsed.lower() != f"{tag}:{parsed.uuid}":
        raise Validation(
            "execution id",
            f"must be {{fp:N}}:<uuid> with N from 0 to {PARTITIONS - 1}, as ExecutionId.new() makes it",
        )
    if not (0 < len(lane) <= _LONGEST_LANE and lane.isascii() and lane.isprintable()):
        raise Validation("lane", f"must be 1 to {_LONGEST_LANE} printable ASCII characters")
    key, index = f"ff:exec:{tag}:{execution_id}", f"ff:idx:{tag}"
    keys = [f"{key}:core", f"{key}:tags", f"{key}:result", f"{index}:lane:{lane}:terminal", f"{index}:all_executions"]
    if flow_id is None:
        return keys, ""
    flow = FlowId(str(FlowId(flow_id).uuid))
    if flow_partition(flow, PARTITIONS) == partition:
        # In another partition it would be in another slot, and out of a call's reach.
        keys.append(f"ff:flow:{tag}:{flow}:members")
    return keys, flow


def _pairs(tags: Mapping[str, str] | None) -> list[str]:
    return [word for pair in (tags or {}).items() for word in pair]
