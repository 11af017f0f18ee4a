"""Rows of the outbox → payloads, in bulk. Total: a row that makes no payload is counted and skipped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final, cast, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import trusted_execution_id, trusted_flow_id
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.hub import Facts

__all__ = ["Batch", "Row", "decode", "tags_of"]

# As `queries` selects them: event_id, execution id, outcome, occurred_at_ms, flow id, then facts, then the result.
Row = tuple[int, str | None, str | None, int | None, str | None]
_EXISTS, _NAMESPACE, _TAGS = 5, 6, 7
_NOT_TERMINAL: Final = "resumable"
_OUTBOX_FAMILY: Final = StreamCursor.outbox(1).family


@final
class Batch(msgspec.Struct, frozen=True, gc=False):
    """Decoded rows; the sequences run parallel."""

    plain: Sequence[CompletionPayload]
    with_results: Sequence[CompletionPayload] | None
    facts: Sequence[Facts | None] | None
    malformed: int


def decode(rows: Sequence[Row], watermark: int, *, facts: bool, results: bool) -> Batch:
    """Payloads of these rows, in order. ``watermark``: no payload's cursor goes beyond it.

    ``resumable`` rows are no completions: a waitpoint was satisfied, the execution goes on.
    """
    good = [row for row in rows if row[1] is not None and row[2] is not None and row[2] != _NOT_TERMINAL]
    malformed = 0
    if len(good) != len(rows):
        malformed = sum(row[1] is None or row[2] is None for row in rows)
    # Rows come in ascending order: those beyond the watermark share one cursor.
    below = bisect_right(good, watermark, key=itemgetter(0))
    cursors = [StreamCursor(_OUTBOX_FAMILY, row[0]) for row in good[:below]]
    cursors += [StreamCursor(_OUTBOX_FAMILY, watermark)] * (len(good) - below)
    plain = [
        CompletionPayload(
            trusted_execution_id(row[1]),  # type: ignore[arg-type]  # filtered above; a cast costs a call a row
            row[2],  # type: ignore[arg-type]  # the same
            None,
            row[3] or 0,
            None if row[4] is None else trusted_flow_id(row[4]),
            cursor,
        )
        for row, cursor in zip(good, cursors, strict=True)
    ]
    return Batch(
        plain,
        [_with_result(payload, cast("bytes | None", row[-1])) for payload, row in zip(plain, good, strict=True)]
        if results
        else None,
        [_facts(cast("tuple[object, ...]", row)) for row in good] if facts else None,
        malformed,
    )


def _with_result(payload: CompletionPayload, result: bytes | None) -> CompletionPayload:
    if result is None:
        return payload
    return CompletionPayload(
        payload.execution_id, payload.outcome, result, payload.produced_at_ms, payload.flow_id, payload.cursor
    )


def _facts(row: tuple[object, ...]) -> Facts | None:
    namespace = cast("str | None", row[_NAMESPACE])
    if not row[_EXISTS]:
        # No core record: the row's own namespace may still decide, tags cannot.
        return None if namespace is None else (namespace, {})
    return namespace, tags_of(cast("str | None", row[_TAGS]))


def tags_of(text: str | None) -> Mapping[str, str]:
    """The tags, from their JSON text."""
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.ValidationError:
        # Some value is no string: then its JSON text counts, as it does for SQL's ->> operator.
        loose: object = msgspec.json.decode(text)
        if not isinstance(loose, dict):
            return {}
        items = cast("dict[str, object]", loose).items()
        return {key: _as_text(value) for key, value in items if value is not None}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
