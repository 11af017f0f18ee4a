"""Announcement bytes → payloads. Total: any bytes give a payload or none, in bounded time, and nothing is raised."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from itertools import repeat
from typing import Final

import msgspec

from ffcompletion.contract.ids import (
    ExecutionId,
    FlowId,
    is_execution_id,
    is_flow_id,
    trusted_execution_id,
    trusted_flow_id,
)
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["LONGEST", "decode", "decode_batch"]

LONGEST: Final = 4_096
"""An announcement has some 150 bytes. What is twenty times that is none, and is not worth parsing, or keeping."""
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

# Fewer than these are read one by one: what reading them together spares is less than what it takes to begin.
_FEW: Final = 4
_DECODE_MANY: Final = msgspec.json.Decoder(list[_Announcement | int]).decode
# Between two of them stands a number that nobody else knows. Where it is found again, each by itself is whole: otherwise
# pieces of several could make one, and take in whatever was announced between them.
_MARK: Final = secrets.randbits(62)
_BETWEEN: Final = b",%d," % _MARK
_UUID_LENGTH: Final = 36
_HYPHENS: Final = (8, 13, 18, 23)
_HEX: Final = b"0123456789abcdefABCDEF"
_PREFIX: Final = re.compile(r"\{fp:[0-9]{1,4}\}:")
# Partitions as ids name them, those met so far; bounded by what the expression admits.
_prefixes: Final[set[str]] = set()


def decode_batch(messages: Sequence[bytes]) -> list[CompletionPayload]:
    """The payloads of many announcements, in order, without those that are malformed.

    All of them are read at once if they are more than a few, and all are as the engine writes them.
    """
    found = None if len(messages) < _FEW else _decode_together(messages)
    if found is not None:
        return found
    return [payload for raw in messages if (payload := decode(raw)) is not None]


def _decode_together(messages: Sequence[bytes]) -> list[CompletionPayload] | None:
    """The same, with each step over all of them; None if any is written in another way."""
    try:
        found = _DECODE_MANY(b"[" + _BETWEEN.join(messages) + b"]")
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    announcements = [one for one in found[::2] if not isinstance(one, int)]
    if len(announcements) != len(messages) or found[1::2] != [_MARK] * (len(messages) - 1):
        return None
    ids = [one.execution_id for one in announcements]
    flows = [one.flow_id for one in announcements]
    outcomes = [one.outcome for one in announcements]
    usual = _are_uuids([id_[-_UUID_LENGTH:] for id_ in ids]) and _are_uuids(flows)
    if not usual or not _are_prefixes({id_[:-_UUID_LENGTH] for id_ in ids}) or _NO_FLOW in flows:
        return None
    if max(map(len, outcomes)) > _LONGEST_WORD:
        return None
    return list(
        map(
            CompletionPayload,
            map(str.__new__, repeat(ExecutionId), ids),
            outcomes,
            repeat(None),
            repeat(0),
            map(str.__new__, repeat(FlowId), flows),
        )
    )


def _are_uuids(texts: Sequence[str]) -> bool:
    """Whether all are UUIDs in the usual spelling: hyphens where they belong, and nothing but hex digits besides."""
    line = _UUID_LENGTH + 1
    joined = "\n".join(texts) + "\n"
    if len(joined) != line * len(texts) or not joined.isascii():
        return False
    text = joined.encode()
    hyphens = b"-" * len(texts)
    return (
        all(text[at::line] == hyphens for at in _HYPHENS)
        and text[_UUID_LENGTH::line] == b"\n" * len(texts)
        and len(text.translate(None, _HEX)) == (len(_HYPHENS) + 1) * len(texts)
    )


def _are_prefixes(texts: set[str]) -> bool:
    fresh = texts - _prefixes
    if not all(map(_PREFIX.fullmatch, fresh)):
        return False
    _prefixes.update(fresh)
    return True


def decode(raw: bytes) -> CompletionPayload | None:
    """The payload of one announcement, or None if it is malformed."""
    if len(raw) > LONGEST:
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
