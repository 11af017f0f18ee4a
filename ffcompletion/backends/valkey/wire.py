"""Announcement bytes → payload. Total: any bytes give a payload or None, in bounded time, and nothing is raised."""

from __future__ import annotations

from typing import Final

import msgspec

from ffcompletion.contract.ids import is_execution_id, is_flow_id, trusted_execution_id, trusted_flow_id
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["decode"]

# An announcement has some 150 bytes. What is a hundred times that is none, and is not worth parsing.
_LONGEST: Final = 16_384
# An id has some 50 characters, an outcome 9 at the most. What is kept of an announcement is no longer than this.
_LONGEST_WORD: Final = 256

# Our own producers announce an execution without a flow too; the message has to name one.
_NO_FLOW: Final = "00000000-0000-0000-0000-000000000000"


class _Announcement(msgspec.Struct, gc=False):
    """The JSON object: three strings; a missing outcome reads as empty, unknown members are ignored."""

    execution_id: str
    flow_id: str
    outcome: str = ""


_DECODE: Final = msgspec.json.Decoder(_Announcement).decode


def decode(raw: bytes) -> CompletionPayload | None:
    """The payload of one announcement, or None if it is malformed."""
    if len(raw) > _LONGEST:
        return None
    try:
        found = _DECODE(raw)
    except UnicodeDecodeError:
        # The engine's cjson passes bytes ≥ 0x80 through unchecked; they are read with replacement.
        try:
            found = _DECODE(raw.decode("utf-8", "replace"))
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    execution_id, flow_id = found.execution_id, found.flow_id
    if len(execution_id) > _LONGEST_WORD or len(found.outcome) > _LONGEST_WORD:
        return None
    if not (is_execution_id(execution_id) and is_flow_id(flow_id)):
        return None
    flow = None if flow_id == _NO_FLOW else trusted_flow_id(flow_id)
    return CompletionPayload(trusted_execution_id(execution_id), found.outcome, None, 0, flow)
