"""Questions about records and results."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import fetching, lookups
from ffcompletion.backends.postgres.lookups import Lookups
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.rows import Row
from tests.adapters.postgres.test_filtering import resumable
from tests.worlds import PostgresWorld, done, first, insert, some


async def test_another_s_result_is_handed_to_nobody(engine: PostgresWorld) -> None:
    """A row of the attacker's namespace for an execution whose record is the victim's: undecided, live and stored."""
    theirs = ffc.ScannerFilter("attacker")
    item = done(namespace="victim", result=b"secret", tags={"k": "v"})
    partition, _, bare = item.execution_id[4:].partition("}:")
    row = (
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
        " VALUES (%s, %s, 'success', 'attacker', 0)"
    )
    async with engine.backend() as backend:
        live = await backend.subscribe_completions_filtered(theirs, results=True)
        await engine.announce(item)
        await engine.sql(row, (partition, bare))
        last = done(namespace="attacker", result=b"own")
        await engine.announce(last)
        assert (await first(live)).payload_bytes == b"own"
        assert live.stats().undecided == 1
        stored = await resumable(backend).subscribe_completions_from(ffc.StreamCursor.beginning(), theirs, results=True)
        assert (await first(stored)).payload_bytes == b"own"
        assert stored.stats().undecided == 1
        await live.aclose()
        await stored.aclose()


async def test_results_come_in_pieces_bounded_by_bytes(engine: PostgresWorld) -> None:
    """More than fit one question, live and stored, in order, with those that have none in between."""
    items = [done(namespace="a", result=None if n % 3 == 2 else bytes([n]) * 400_000) for n in range(12)]
    async with engine.backend() as backend:
        live = await backend.subscribe_completions(results=True)
        filtered = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
        conn = await engine.connect(autocommit=False)
        for item in items:
            await insert(conn, item)
        await conn.commit()
        await conn.close()
        stored = await resumable(backend).subscribe_completions_from(ffc.StreamCursor.beginning(), None, results=True)
        for stream in (live, filtered, stored):
            got = await some(stream, len(items), 20)
            assert [(p.execution_id, p.payload_bytes) for p in got] == [(i.execution_id, i.result) for i in items]
            assert [p.cursor.position for p in got] == sorted(p.cursor.position for p in got)
            await stream.aclose()


async def test_rows_far_apart_are_read_without_what_lies_between(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who commits late may have ids a million apart: two questions, not one for each page."""
    monkeypatch.setattr(lookups, "_MOST", 10)
    items = [done() for _ in range(60)]
    conn = await engine.connect()
    ids = [await insert(conn, item) for item in items]
    asked = 0

    async def counted(*args: Any, **named: Any) -> list[Row]:
        nonlocal asked
        asked += 1
        return await fetching.fetch_outbox(*args, **named)

    monkeypatch.setattr(lookups, "fetch_outbox", counted)
    asking = Lookups(Queries(None), prepare=False, tuned_already=True, plain=False)
    for wanted, most in (([ids[0], ids[-1]], 2), (ids[:1], 1), (ids[5:25], 3), (ids, 7)):
        asked = 0
        rows = await asking.rows(conn, wanted, 5.0)
        assert [row[0] for row in rows] == wanted
        assert asked <= most
    await conn.close()
