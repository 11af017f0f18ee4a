"""Every channel and key name of the engine, once. Execution keys are double-tagged: the tag, then the whole id."""

from __future__ import annotations

from typing import Final

from ffcompletion.contract.ids import ExecutionId, FlowId, flow_partition

__all__ = [
    "CHANNEL",
    "LANES",
    "NEAR_CHANNEL",
    "NOBODY",
    "PARTITIONS",
    "all_executions",
    "core",
    "execution",
    "members",
    "result",
    "tag_of",
    "tags",
    "terminal",
]

CHANNEL: Final = "ff:dag:completions"
NEAR_CHANNEL: Final = f"ff:exec:{{{CHANNEL}}}"
"""A key that nobody writes, in the slot that the channel's name falls into."""
LANES: Final = "ff:idx:lanes"
"""Set: the lanes that the engine knew when it booted."""
PARTITIONS: Final = "ff:config:partitions"
"""Hash: ``num_flow_partitions`` and others."""
NOBODY: Final = ExecutionId("{fp:0}:00000000-0000-0000-0000-000000000000")
"""An id that no execution has, for asking whether a key may be read."""


def tag_of(execution_id: ExecutionId) -> str:
    """The hash tag, rebuilt from the parsed integer: ``{fp:+007}:…`` is stored under ``{fp:7}``."""
    text = execution_id[: execution_id.index("}:") + 1]
    digits = text[4:-1]
    return text if digits.isdigit() and (digits[0] != "0" or digits == "0") else f"{{fp:{execution_id.partition}}}"


def execution(execution_id: ExecutionId) -> str:
    """What all keys of an execution begin with; ``:core``, ``:tags`` or ``:result`` follows."""
    return f"ff:exec:{tag_of(execution_id)}:{execution_id}"


def core(execution_id: ExecutionId) -> str:
    """Hash: namespace, flow_id, lane_id, lifecycle_phase, terminal_outcome, completed_at, …"""
    return f"{execution(execution_id)}:core"


def tags(execution_id: ExecutionId) -> str:
    """Hash: tag → value."""
    return f"{execution(execution_id)}:tags"


def result(execution_id: ExecutionId) -> str:
    """String: the stored result."""
    return f"{execution(execution_id)}:result"


def terminal(partition: int, lane: str) -> str:
    """Sorted set of one partition and lane: finished executions by ``completed_at``, in ms."""
    return f"ff:idx:{{fp:{partition}}}:lane:{lane}:terminal"


def all_executions(partition: int) -> str:
    """Set: every execution of a partition that is known, finished or not."""
    return f"ff:idx:{{fp:{partition}}}:all_executions"


def members(flow_id: FlowId, partitions: int) -> str:
    """Set: the executions of a flow."""
    return f"ff:flow:{{fp:{flow_partition(flow_id, partitions)}}}:{flow_id}:members"
