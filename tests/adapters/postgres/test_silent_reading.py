"""Ends without a row, a page at a time, to one stream, with its results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, changes, reconciler, unread
from ffcompletion.backends.postgres.silent_reading import SilentReading
from tests.adapters.postgres.test_reconciler import NOW, A
from tests.worlds import PostgresWorld, done, first, nothing, some


async def test_a_partition_that_somebody_fills_holds_up_no_look(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its pages take: what ends elsewhere is looked for between two of them."""
    monkeypatch.setattr(unread, "_MOST_ROWS", 32)
    monkeypatch.setattr(reconciler, "_TURN_S", 0.05)
    # Looking at everything is not to become so dear, on a busy machine, that partitions wait until they are counted.
    monkeypatch.setattr(changes, "_DEAR_S", 60.0)
    item, pages, ended_at = done(namespace="a"), 0, 0
    read = SilentReading.read

    async def counted(self: SilentReading, conn: Any, lookups: Any, plan: Any, piece: Sequence[unread.Mark]) -> object:
        nonlocal pages, ended_at
        if any(mark.key == 5 and mark.after for mark in piece):
            # One more page of its many records, alone or beside what the next look has asked for by now.
            pages += 1
            if not ended_at:
                await engine.cancels(item)
                ended_at = pages
            await asyncio.sleep(0.1)
        return await read(self, conn, lookups, plan, piece)

    monkeypatch.setattr(SilentReading, "read", counted)
    await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.2) as backend:
        async with ffc.subscribe(backend, A) as stream:
            await engine.sql(
                "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, terminal_at_ms, raw_fields)"
                f" SELECT 5, gen_random_uuid(), 'default', 'cancelled', {NOW}, '{{\"namespace\":\"mallory\"}}'"
                " FROM generate_series(1, 2000)"
            )
            assert (await first(stream)).execution_id == item.execution_id
    assert pages - ended_at <= 6


async def test_results_of_what_ended_in_silence(engine: PostgresWorld) -> None:
    """A failure at the reclaim cap: terminal, no row; with its result for who asks, by tag, and by its right outcome."""
    item, expired = done(namespace="a", tags={"k": "v"}, result=b"r"), done(namespace="a", tags={"k": "v"})
    wanted = ffc.ScannerFilter("a", ("k", "v"))
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, wanted, results=True) as stream:
            for each, reason in ((item, None), (expired, "attempt_timeout")):
                await engine.begins(each)
                partition, _, bare = each.execution_id[4:].partition("}:")
                await engine.sql(
                    f"UPDATE ff_exec_core SET lifecycle_phase = 'terminal', terminal_at_ms = {NOW}, result = %s,"
                    " cancellation_reason = %s WHERE partition_key = %s AND execution_id = %s",
                    (each.result, reason, partition, bare),
                )
            got = {p.execution_id: (p.outcome, p.payload_bytes) for p in await some(stream, 2)}
            assert got == {item.execution_id: ("failed", b"r"), expired.execution_id: ("expired", None)}


async def test_a_slow_consumer_gets_all_of_it_and_memory_is_bounded(engine: PostgresWorld) -> None:
    """More than fit its buffer: at its own pace, each once, while another has them at once."""
    items = [done() for _ in range(60)]
    for item in items:
        await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.1, buffer_size=5) as backend:
        async with ffc.subscribe(backend) as slow, ffc.subscribe(backend) as quick:
            reading = asyncio.ensure_future(some(quick, 60, 30))
            await engine.cancels(*items)
            assert {p.execution_id for p in await reading} == {item.execution_id for item in items}
            assert slow.stats().buffered <= 5
            got = [p.execution_id for p in await some(slow, 60, 30)]
            assert sorted(got) == sorted(item.execution_id for item in items)
            await nothing(slow, done(), engine)
