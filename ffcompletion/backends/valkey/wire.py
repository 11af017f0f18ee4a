"""Announcement bytes → payloads. Total: any bytes give a payload or none, in bounded time, and nothing is raised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from ffcompletion.contract.ids import (
    HYPHENATED_UUID,
    is_execution_id,
    is_flow_id,
    trusted_execution_id,
    trusted_flow_id,
)
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["decode", "decode_batch"]

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

# One line as the engine writes it: its order of members, no spaces, no escapes, ids in their usual spelling. What this
# matches is a valid announcement by the grammar of ids, and reads as JSON reads it.
_AS_WRITTEN: Final = re.compile(
    rf'^\{{"flow_id":"({HYPHENATED_UUID})","outcome":"([a-z]{{0,32}})",'
    rf'"execution_id":"(\{{fp:[0-9]{{1,4}}\}}:{HYPHENATED_UUID})"\}}$',
    re.MULTILINE,
)


def decode_batch(messages: Sequence[bytes]) -> list[CompletionPayload]:
    """The payloads of many announcements, in order, without those that are malformed.

    All of them are read at once if all are as the engine writes them; then it takes half the time.
    """
    try:
        text = b"\n".join(messages).decode("ascii")
    except UnicodeDecodeError:
        text = ""
    # One line for each, or a message that holds a line break would be read as several.
    if text.count("\n") == len(messages) - 1:
        found: list[tuple[str, str, str]] = _AS_WRITTEN.findall(text)
        if len(found) == len(messages):
            return [
                CompletionPayload(trusted_execution_id(id_), outcome, None, 0, trusted_flow_id(flow))
                for flow, outcome, id_ in found
            ]
    return [payload for raw in messages if (payload := decode(raw)) is not None]


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
