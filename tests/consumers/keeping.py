"""What tests of stored positions share."""

from __future__ import annotations

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"


BEGINNING = ffc.StreamCursor.beginning()


def emitted(backend: MemoryBackend, count: int) -> list[ffc.CompletionPayload]:
    return [backend.emit(ID % n) for n in range(count)]


async def stored(store: ffc.CheckpointStore) -> ffc.StreamCursor | None:
    checkpoint = await store.load("a")
    return None if checkpoint is None else checkpoint.cursor


CHECKPOINT = ffc.Checkpoint(cursor=ffc.StreamCursor.outbox(42), backend="PostgresBackend", selection="namespace='ä'")
