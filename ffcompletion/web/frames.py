"""Server-sent events as bytes. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.text import json_line

__all__ = ["KEEPALIVE", "RETRY", "completion_frame", "event", "id_frame"]

RETRY: Final = b"retry: 1000\n\n"
"""Tells a browser that it is connected, and how soon to come back, in ms."""
KEEPALIVE: Final = b": still here\n\n"
"""A comment. It has no id: whoever is sent it may have missed what an id would vouch for."""


def id_frame(position: str) -> bytes:
    """Sets the browser's ``Last-Event-ID`` and is no event: where a stream begins that has brought nothing yet."""
    return f"id: {position}\n\n".encode()


def event(name: str, data: Mapping[str, object]) -> bytes:
    """An event without an id. Its data is one line, also for clients that end lines where Unicode does."""
    return f"event: {name}\ndata: {json_line(data)}\n\n".encode()


def completion_frame(
    completion: CompletionPayload, position: str | None, now_ms: int, namespace: str | None = None
) -> bytes:
    """One completion, with its position as id where it has one."""
    data: dict[str, object] = {
        "execution_id": str(completion.execution_id),
        "outcome": completion.outcome,
        "kind": completion.kind.value,
        "flow_id": None if completion.flow_id is None else str(completion.flow_id),
        "produced_at_ms": completion.produced_at_ms,
        "lag_ms": max(0, now_ms - completion.produced_at_ms) if completion.produced_at_ms else None,
    }
    if namespace is not None:
        data["namespace"] = namespace
    head = b"" if position is None else b"id: " + position.encode() + b"\n"
    return head + event("completion", data)
