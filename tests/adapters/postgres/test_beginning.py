"""Where a stream begins, and what was under way then."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some


async def test_no_cursor_lies_below_where_its_stream_began(postgres: PostgresWorld) -> None:
    """Resumed while somebody writes, in an outbox that was trimmed: resuming there again is possible at any moment."""
    ((issued,),) = await postgres.sql("SELECT last_value FROM ff_completion_event_event_id_seq")
    await postgres.sql("SELECT setval('ff_completion_event_event_id_seq', %s)", (int(issued) + 150_000,))
    stored, live = [done() for _ in range(5)], [done() for _ in range(5)]
    await postgres.announce(*stored)
    async with postgres.backend() as backend:
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            at = (await some(stream, 2))[-1].cursor
    assert at is not None
    slow = await postgres.connect(autocommit=False)
    await insert(slow, late := done())
    async with postgres.backend() as backend:
        async with ffc.subscribe(backend, cursor=at) as stream:
            got = await some(stream, 3)
            await postgres.announce(*live)
            got += await some(stream, 5)
            assert [item.execution_id for item in got] == [item.execution_id for item in [*stored[2:], *live]]
            positions = [item.cursor.position for item in got if item.cursor is not None]
            assert len(positions) == 8
            assert positions == sorted(positions)
            assert positions[0] >= at.position
            await slow.commit()
            await slow.close()
            assert (await first(stream)).execution_id == late.execution_id


@pytest.mark.parametrize("ends", [True, False])
async def test_every_position_handed_out_beside_a_writer_is_resumed_at(postgres: PostgresWorld, ends: bool) -> None:
    """In an outbox that was trimmed, and by a stream that begins while somebody writes: what lies below the oldest row
    is no position, or resuming there would be refused as trimmed. From now on, too, where the writer ends in a moment.
    """
    ((issued,),) = await postgres.sql("SELECT last_value FROM ff_completion_event_event_id_seq")
    await postgres.sql("SELECT setval('ff_completion_event_event_id_seq', %s)", (int(issued) + 150_000,))
    stored, live = [done() for _ in range(5)], [done() for _ in range(5)]
    await postgres.announce(*stored)
    slow = await postgres.connect(autocommit=False)
    stored_upto = await insert(slow, late := done()) - 1
    async with postgres.backend() as backend:
        subscribing = asyncio.ensure_future(backend.subscribe_completions())
        if ends:
            await asyncio.sleep(0.02)
            await slow.commit()
        handed_out = [(await subscribing).cursor] if ends else []
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            got = await some(stream, 5)
            await postgres.announce(*live)
            got += await some(stream, 6 if ends else 5)
            handed_out += [item.cursor for item in got] + [stream.cursor]
            assert {item.execution_id for item in got} == {item.execution_id for item in stored + live + [late] * ends}
    assert len(handed_out) == (13 if ends else 11)
    await slow.rollback()
    await slow.close()
    async with postgres.backend() as backend:
        for cursor in dict.fromkeys(handed_out):
            async with ffc.subscribe(backend, cursor=cursor) as stream:
                if cursor is not None and cursor.position < stored_upto:
                    await some(stream, 1)


async def test_a_transaction_under_way_when_subscribing_is_delivered(postgres: PostgresWorld) -> None:
    """Its id lies below the start position, and it commits after subscribe returned: also without a notification."""
    for notified in (True, False):
        conn = await postgres.connect(autocommit=False)
        if not notified:
            await conn.execute("SET LOCAL session_replication_role = replica")
        early = done()
        await insert(conn, early)
        await postgres.announce(done())
        async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
            await conn.commit()
            await conn.close()
            assert (await first(stream)).execution_id == early.execution_id
            await nothing(stream, done(), postgres)


@pytest.mark.parametrize("between", [0, 80])
async def test_what_a_transaction_far_below_the_beginning_holds_arrives_whole(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, between: int
) -> None:
    """No reader looks so far down: its rows are announced, once, and are more than are picked at a time."""
    monkeypatch.setattr("ffcompletion.backends.postgres.beginning.LOOK_BACK", 10)
    monkeypatch.setattr("ffcompletion.backends.postgres.reader._PAGE", 30)
    slow, items = await postgres.connect(autocommit=False), [done() for _ in range(100)]
    for item in items:
        await insert(slow, item)
        await slow.execute("SELECT nextval('ff_completion_event_event_id_seq') FROM generate_series(1, %s)", (between,))
    await postgres.announce(*(done() for _ in range(20)))
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        await slow.commit()
        await slow.close()
        got = [item.execution_id for item in await some(stream, 100)]
        assert got == [item.execution_id for item in items]
        await nothing(stream, done(), postgres)


async def test_it_is_noticed_that_all_who_were_under_way_have_ended(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is missing: what is looked for on their behalf is looked for no longer."""
    monkeypatch.setattr("ffcompletion.backends.postgres.beginning.LOOK_BACK", 10)
    slow, item = await postgres.connect(autocommit=False), done()
    await insert(slow, item)
    await postgres.announce(*(done() for _ in range(20)))
    async with postgres.backend(poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        assert isinstance(backend, PostgresBackend)
        run = backend._run
        assert run is not None
        assert run.reader.tracker.owned
        await slow.commit()
        await slow.close()
        assert (await first(stream)).execution_id == item.execution_id
        assert not run.reader.tracker.gaps
        await eventually(lambda: not run.reader.tracker.owned)
