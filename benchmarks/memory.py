"""Whether memory stays flat: millions of completions through one stream, resident size on the way."""

from __future__ import annotations

import asyncio
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
# Announcements of executions that have no record.
UNKNOWN = 1_000_000
# Published at a time: more than the reader takes at once, and the server drops it for reading too slowly.
PIECE = 50_000


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@asynccontextmanager
async def _reading(backend: PostgresBackend | ValkeyBackend) -> AsyncIterator[ffc.CompletionStream]:
    async with backend, ffc.subscribe(backend) as stream:
        yield stream


def _grown(what: str, before: float, after: float, floor: str) -> Row:
    return Row(
        what=f"{what}: resident size, against before",
        ours=f"{after:.1f} MiB",
        bare=f"{before:.1f} MiB",
        ratio=f"+{after - before:.1f} MiB",
        floor=floor,
        goal=floor,
    )


async def _floods(valkey: str, postgres: str) -> list[Row]:
    """What anybody may send, or a tenant may leave behind; ``docs/memory.md`` says what each may cost."""
    rows: list[Row] = []
    for size in (16_000, 4_000):
        async with _reading(ValkeyBackend(valkey)):
            before = most = _resident_mib()
            process = producer.start("large", valkey, 480_000_000 // size, size)
            producer.go(process)
            finishing = asyncio.create_task(asyncio.to_thread(producer.finish, process))
            while not finishing.done():
                await asyncio.sleep(0.02)
                most = max(most, _resident_mib())
            what = f"valkey: {480_000_000 // size:,} announcements of {size // 1000} KB, nobody reading"
            rows.append(_grown(what, before, most, "80 MiB"))
    async with _reading(ValkeyBackend(valkey)):
        before = _resident_mib()
        process = producer.start("large", valkey, 30_000, 16_000)
        producer.go(process)
        # No code of ours runs meanwhile: what arrives stays in glide's queue.
        producer.finish(process)
        held = _resident_mib()
        await asyncio.sleep(2)
        rows.append(_grown("the same, the event loop held up by its program", before, held, "–"))
        rows.append(_grown("the same, two seconds later", before, _resident_mib(), "–"))
    rows.append(await _unknown(valkey, UNKNOWN))
    async with _reading(PostgresBackend(postgres)):
        before = _resident_mib()
        process = producer.start("notify", postgres, 1_000_000)
        producer.go(process)
        await asyncio.to_thread(producer.finish, process)
        rows.append(_grown("postgres: a million ids of no row, by NOTIFY", before, _resident_mib(), "flat"))
    for name, url, backend in (
        ("valkey", valkey, ValkeyBackend(valkey)),
        ("postgres", postgres, PostgresBackend(postgres)),
    ):
        async with backend, ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as stream:
            before = most = _resident_mib()
            process = producer.start("results", url, 300, 1_000_000)
            producer.go(process)
            finishing = asyncio.create_task(asyncio.to_thread(producer.finish, process))
            async with asyncio.timeout(120):
                for _ in range(300):
                    await anext(stream)
                    await asyncio.sleep(0.03)
                    most = max(most, _resident_mib())
            await finishing
            rows.append(_grown(f"{name}: 300 results of 1 MB, a slow reader", before, most, "80 MiB"))
    return rows


async def _unknown(url: str, count: int) -> Row:
    """A filtered stream asks for the record of each, and there is none."""
    backend = ValkeyBackend(url)
    async with backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        before = most = 0.0
        for start in range(0, count, PIECE):
            if start == count // 5:
                # By now it holds as much as it ever remembers.
                before = most = _resident_mib()
            piece = min(PIECE, count - start)
            process = producer.start("unknown", url, piece)
            producer.go(process)
            async with asyncio.timeout(120):
                while stream.stats().undecided < start + piece:
                    await asyncio.sleep(0.05)
                    most = max(most, _resident_mib())
            await asyncio.to_thread(producer.finish, process)
    what = f"valkey: {count:,} announcements without a record, filtered: resident size, against after {count // 5:,}"
    ratio = f"{most / before:.2f}"
    return Row(what=what, ours=f"{most:.1f} MiB", bare=f"{before:.1f} MiB", ratio=ratio, floor="flat", goal="flat")


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
        rows += await _floods(server.url, url)
    return rows
