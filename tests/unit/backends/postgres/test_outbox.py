"""What of a batch is for which stream."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.postgres.outbox import for_stream
from ffcompletion.delivery.batch import Batch

IDS = [ffc.ExecutionId(f"{{fp:1}}:00000000-0000-0000-0000-{number:012}") for number in range(3)]
PAYLOADS = [ffc.CompletionPayload(id_, "success") for id_ in IDS]


def test_what_lies_far_below_is_for_who_reads_nothing_there() -> None:
    """One from now on, one that resumed above it. What nobody had to look for elsewhere is for all."""
    batch = Batch(PAYLOADS, ids=[4, 5, 6], beneath=dict(zip(IDS, (4, 5, 6), strict=True)))
    assert for_stream(PAYLOADS, batch, None) == (PAYLOADS, [4, 5, 6])
    assert for_stream(PAYLOADS, batch, 5) == (PAYLOADS[:2], [4, 5])
    assert for_stream(PAYLOADS[2:], batch, 0) == ([], [])
    assert for_stream(PAYLOADS, Batch(PAYLOADS, ids=[4, 5, 6]), 0) == (PAYLOADS, [4, 5, 6])
