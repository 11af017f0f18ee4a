"""Whether memory stays flat: millions of completions through one stream, resident size on the way."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import ffcompletion as ffc
from benchmarks import producer
from benchmarks.postgres import prepare
from benchmarks.table import Row, consume
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.valkey import ValkeyBackend

ROUND = 500_000
ROUNDS = 10
# Published at a time: more than the reader takes at once, and the server drops it for reading too slowly.
PIECE = 50_000


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@asynccontextmanager
async def _reading(backend: PostgresBackend | ValkeyBackend) -> AsyncIterator[ffc.CompletionStream]:
    async with backend, ffc.subscribe(backend) as stream:
        yield stream


async def run(url: str) -> list[Row]:
    await prepare(url)
    rows: list[Row] = []
    with embedded.valkey() as server:
        for name, backend, kind, target, numbers in (
            ("valkey", ValkeyBackend(server.url), "publish", server.url, (PIECE,)),
            ("postgres", PostgresBackend(url), "insert", url, (PIECE, 1000)),
        ):
            sizes: list[float] = []
            async with _reading(backend) as stream:
                for piece in range(1, ROUNDS * ROUND // PIECE + 1):
                    process = producer.start(kind, target, *numbers)
                    producer.go(process)
                    await consume(stream, PIECE)
                    producer.finish(process)
                    if piece % (ROUND // PIECE) == 0:
                        sizes.append(_resident_mib())
            rows.append(
                Row(
                    what=f"{name}: resident size after {ROUND * ROUNDS:,} completions, against after {ROUND:,}",
                    ours=f"{sizes[-1]:.1f} MiB",
                    bare=f"{sizes[0]:.1f} MiB",
                    ratio=f"{sizes[-1] / sizes[0]:.2f}",
                    floor="flat",
                    goal="flat",
                )
            )
    return rows
