"""Catching up, a page at a time, and joining."""

from __future__ import annotations

import asyncio

import ffcompletion as ffc
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some


async def test_catching_up_joins_live_while_writers_write(postgres: PostgresWorld) -> None:
    """From the beginning, with slow and rolled-back writers at work: every row once."""
    total = 3000
    committed: set[int] = set()

    async def write(number: int) -> None:
        conn = await postgres.connect(autocommit=False)
        for turn in range(total // 6 // 10):
            rows = [await insert(conn, done(), core=False) for _ in range(10)]
            if (turn + number) % 7 == 0:
                await conn.rollback()
                continue
            if (turn + number) % 5 == 0:
                await asyncio.sleep(0.01)
            await conn.commit()
            committed.update(rows)
        await conn.close()

    async with postgres.backend() as backend:
        for number in range(2):
            await write(number)
        writers = [asyncio.ensure_future(write(number)) for number in range(2, 6)]
        seen: list[int] = []
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            ids = await _ids_of(postgres)
            async with asyncio.timeout(30):
                await asyncio.gather(*writers)
                ids = await _ids_of(postgres)
                while len(seen) < len(committed):
                    seen.append(ids[(await stream.__anext__()).execution_id])
            await nothing(stream, done(), postgres)
    assert sorted(seen) == sorted(committed)


async def test_a_page_ends_where_it_should(postgres: PostgresWorld) -> None:
    """Rows beyond an open gap come once, although a page with holes in it has room for them."""
    items = [done() for _ in range(10)]
    await postgres.announce(*items)
    await postgres.sql(
        "DELETE FROM ff_completion_event WHERE event_id IN"
        " (SELECT event_id FROM ff_completion_event ORDER BY event_id LIMIT 4 OFFSET 2)"
    )
    async with postgres.backend() as backend, ffc.subscribe(backend) as live:
        # The hub began when nobody was writing, so the deleted rows are no gaps to it; the open insert is one.
        conn = await postgres.connect(autocommit=False)
        held, beyond = done(), done()
        await insert(conn, held)
        await postgres.announce(beyond)
        assert (await first(live)).execution_id == beyond.execution_id
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            expected = [item.execution_id for item in [*items[:2], *items[6:], beyond]]
            assert [p.execution_id for p in await some(stream, len(expected))] == expected
            await conn.commit()
            assert (await first(stream)).execution_id == held.execution_id
            await nothing(stream, done(), postgres)


async def _ids_of(postgres: PostgresWorld) -> dict[str, int]:
    rows = await postgres.sql(
        "SELECT '{fp:' || partition_key || '}:' || execution_id, event_id FROM ff_completion_event"
    )
    return dict(rows)


async def test_a_slow_consumer_reads_on_at_its_own_pace(postgres: PostgresWorld) -> None:
    """It falls behind, reads stored rows, rejoins, twice; nothing lost, nothing repeated, memory bounded."""
    async with postgres.backend(buffer_size=20) as backend, ffc.subscribe(backend) as stream:
        for _ in range(2):
            items = [done() for _ in range(200)]
            await postgres.announce(*items)
            await eventually(lambda: stream.stats().catching_up)
            assert stream.stats().buffered <= 20
            assert [p.execution_id for p in await some(stream, 200)] == [i.execution_id for i in items]
            await eventually(lambda: not stream.stats().catching_up)
            await nothing(stream, done(), postgres)
        assert stream.stats().overflows >= 2
        assert stream.stats().lost == 0
