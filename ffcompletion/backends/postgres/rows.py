"""Rows of the outbox → payloads, in bulk. Total: a row that makes no payload is counted and skipped."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import ExecutionId, FlowId, trusted_flow_id
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["Decoded", "Row", "decode", "tags_of", "with_results"]

# As `queries` selects them: event_id, execution id, outcome, occurred_at_ms, flow id; and the row's own namespace.
Row = tuple[int, str | None, str | None, int | None, str | None, str | None]
_NOT_TERMINAL: Final = "resumable"
_DEEPEST: Final = 500
_STRING: Final = re.compile(r'"(?:\\.|[^"\\])*"')
_OUTBOX_FAMILY: Final = StreamCursor.outbox(1).family


@final
class Decoded(msgspec.Struct, frozen=True, gc=False):
    """Decoded rows; the two sequences run parallel."""

    rows: Sequence[Row]
    """Those that are completions."""
    payloads: Sequence[CompletionPayload]
    malformed: int
    """Rows that make none."""

    @property
    def places(self) -> dict[str, int]:
        """The id of each one's row, by execution; of several the highest."""
        return {payload.execution_id: row[0] for row, payload in zip(self.rows, self.payloads, strict=True)}


def decode(rows: Sequence[Row], watermark: int) -> Decoded:
    """Payloads of these rows, in order. ``watermark``: no payload's cursor goes beyond it.

    ``resumable`` rows are no completions: a waitpoint was satisfied, the execution goes on.
    """
    good = [row for row in rows if row[1] is not None and row[2] is not None and row[2] != _NOT_TERMINAL]
    malformed = 0
    if len(good) != len(rows):
        malformed = sum(row[1] is None or row[2] is None for row in rows)
    if not good:
        return Decoded((), (), malformed)
    # A column at a time: rows are many, and a step over all of them costs half of one for each.
    ids, names, outcomes, times, flows, _ = zip(*good, strict=True)
    # Rows come in ascending order: those beyond the watermark share one cursor.
    below = bisect_right(ids, watermark)
    cursors = list(map(StreamCursor, repeat(_OUTBOX_FAMILY), ids[:below]))
    cursors += [StreamCursor(_OUTBOX_FAMILY, watermark)] * (len(good) - below)
    if None in times:
        times = tuple(at_ms or 0 for at_ms in times)
    payloads = list(
        map(
            CompletionPayload,
            map(str.__new__, repeat(ExecutionId), names),
            outcomes,
            repeat(None),
            times,
            [None if flow is None else trusted_flow_id(flow) for flow in flows]
            if None in flows
            else map(str.__new__, repeat(FlowId), flows),
            cursors,
        )
    )
    return Decoded(good, payloads, malformed)


def with_results(
    payloads: Sequence[CompletionPayload], results: Mapping[str, bytes | None]
) -> Sequence[CompletionPayload]:
    """The same payloads, each with its stored result, where there is one."""
    return [
        payload
        if (result := results.get(payload.execution_id)) is None
        else CompletionPayload(
            payload.execution_id, payload.outcome, result, payload.produced_at_ms, payload.flow_id, payload.cursor
        )
        for payload in payloads
    ]


def not_below(payloads: Sequence[CompletionPayload], least: StreamCursor) -> Sequence[CompletionPayload]:
    """The same payloads, none with a cursor below ``least``, where their stream stands already.

    The watermark may lie below it: whoever begins to read while somebody writes knows little of the ids before.
    """
    if not payloads or (first := payloads[0].cursor) is None or first.position >= least.position:
        return payloads
    return [
        msgspec.structs.replace(payload, cursor=least)
        if payload.cursor is not None and payload.cursor.position < least.position
        else payload
        for payload in payloads
    ]


def tags_of(text: str | None) -> Mapping[str, str] | None:
    """The tags, from their JSON text, as SQL's ``->>`` operator renders them; None if they cannot be decoded.

    A tag that is no string counts with its JSON text as the server writes it (``1.10``, ``["a", 1]``); null is absent.
    """
    if text is None:
        return {}
    if _too_deep(text):
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        pass
    try:
        return _rendered(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        # Bytes that are no text: nothing is known about this one.
        return None


def _too_deep(text: str) -> bool:
    """Whether it is nested deeper than is read. Counted, because how deep a parser gets depends on who has called it."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = 0
    for sign in _STRING.sub("", text):
        if sign in "[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif sign in "]}":
            depth -= 1
    return False


def _rendered(text: str) -> Mapping[str, str]:
    if not text.startswith("{"):
        return {}
    items = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()
    found = ((key, bytes(value).decode()) for key, value in items)
    return {
        key: msgspec.json.decode(value, type=str) if value.startswith('"') else value
        for key, value in found
        if value != "null"
    }
