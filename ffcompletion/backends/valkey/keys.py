"""Every channel and key name of the engine, once. Execution keys are double-tagged: the tag, then the whole id."""

from __future__ import annotations

from typing import Final

from ffcompletion.contract.ids import ExecutionId

__all__ = ["CHANNEL", "NOBODY", "core", "result", "tag_of", "tags"]

CHANNEL: Final = "ff:dag:completions"
NOBODY: Final = ExecutionId("{fp:0}:00000000-0000-0000-0000-000000000000")
"""An id that no execution has, for asking whether a key may be read."""


def tag_of(execution_id: ExecutionId) -> str:
    """The hash tag, rebuilt from the parsed integer: ``{fp:+007}:…`` is stored under ``{fp:7}``."""
    text = execution_id[: execution_id.index("}:") + 1]
    digits = text[4:-1]
    return text if digits.isdigit() and (digits[0] != "0" or digits == "0") else f"{{fp:{execution_id.partition}}}"


def core(execution_id: ExecutionId) -> str:
    """Hash: namespace, flow_id, lane_id, lifecycle_phase, terminal_outcome, completed_at, …"""
    return f"ff:exec:{tag_of(execution_id)}:{execution_id}:core"


def tags(execution_id: ExecutionId) -> str:
    """Hash: tag → value."""
    return f"ff:exec:{tag_of(execution_id)}:{execution_id}:tags"


def result(execution_id: ExecutionId) -> str:
    """String: the stored result."""
    return f"ff:exec:{tag_of(execution_id)}:{execution_id}:result"
