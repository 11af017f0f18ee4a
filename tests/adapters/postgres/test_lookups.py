"""Questions about records and results."""

from __future__ import annotations

import ffcompletion as ffc
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
