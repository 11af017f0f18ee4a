"""Reading what is new: late commits, rollbacks, gaps that come to an end, and what is no completion."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection

import ffcompletion as ffc
from ffcompletion.backends.postgres.queries import Query
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.backends.postgres.session import Session
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some


async def test_a_lower_id_that_commits_later_is_delivered(postgres: PostgresWorld) -> None:
    """A takes id 1, B takes id 2 and commits first: 2 arrives without waiting, then 1; the cursor waits for 1."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        a, b = done(), done()
        slow = await postgres.connect(autocommit=False)
        low = await insert(slow, a)
        await postgres.announce(b)
        early = await first(stream)
        assert early.execution_id == b.execution_id
        assert early.cursor is not None
        assert early.cursor.position < low
        await eventually(lambda: backend.stats().held >= 1)
        await slow.commit()
        await slow.close()
        late = await first(stream)
        assert late.execution_id == a.execution_id
        await eventually(lambda: backend.stats().held == 0)
        await nothing(stream, done(), postgres)


async def test_rolled_back_ids_stall_nothing(postgres: PostgresWorld) -> None:
    """Rolled back, also to a savepoint: the watermark moves on, and nothing is delivered for them."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        conn = await postgres.connect(autocommit=False)
        for _ in range(3):
            await insert(conn, done())
        await conn.rollback()
        kept = done()
        await conn.execute("SAVEPOINT s")
        await insert(conn, done())
        await conn.execute("ROLLBACK TO SAVEPOINT s")
        event = await insert(conn, kept)
        await conn.commit()
        await conn.close()
        assert (await first(stream)).execution_id == kept.execution_id
        await eventually(lambda: stream.cursor is not None and stream.cursor.event_id == event)
        assert backend.stats().held == 0


async def test_gaps_come_to_an_end_under_a_load_that_never_pauses(postgres: PostgresWorld) -> None:
    """Bursts and rollbacks without a break: no gap is held for long, and the cursor moves on."""
    writing = True

    async def write(conn: AsyncConnection[Any]) -> None:
        while writing:
            async with conn.transaction():
                await conn.execute(
                    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                    " SELECT n % 256, gen_random_uuid(), 'success', 1 FROM generate_series(1, 50) n"
                )
            async with conn.transaction(force_rollback=True):
                await insert(conn, done(), core=False)

    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        writers = [asyncio.ensure_future(write(await postgres.connect())) for _ in range(2)]
        reading = asyncio.ensure_future(some(stream, 1_000_000, 60))
        ages: list[float] = []
        for _ in range(30):
            await asyncio.sleep(0.1)
            ages.append(backend.stats().held_since_s)
        writing = False
        await asyncio.gather(*writers)
        assert max(ages) < 1.5
        assert any(ages)
        await eventually(lambda: backend.stats().held == 0)
        reading.cancel()
        await asyncio.wait({reading})


async def test_a_prepared_transaction_is_still_an_owner(postgres: PostgresWorld) -> None:
    """With the trigger off a writer can be prepared: its lock changes its name, and its row still arrives."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        conn = await postgres.connect(autocommit=False)
        await conn.execute("SET LOCAL session_replication_role = replica")
        late = done()
        await insert(conn, late)
        await postgres.announce(done())
        await first(stream)
        await eventually(lambda: backend.stats().held >= 1)
        await conn.execute("PREPARE TRANSACTION 'ffcompletion_test'")
        await conn.close()
        # Long enough for several looks at the locks: the gap must not be given up.
        await asyncio.sleep(0.3)
        assert backend.stats().held >= 1
        await postgres.sql("COMMIT PREPARED 'ffcompletion_test'")
        assert (await first(stream)).execution_id == late.execution_id
        await eventually(lambda: backend.stats().held == 0)


async def test_polling_finds_what_no_notification_told_of(postgres: PostgresWorld) -> None:
    """The trigger is off: found within the poll interval."""
    async with postgres.backend(poll_interval=0.2) as backend, ffc.subscribe(backend) as stream:
        conn = await postgres.connect(autocommit=True)
        await conn.execute("SET session_replication_role = replica")
        item = done()
        await insert(conn, item)
        await conn.close()
        assert (await first(stream, 2)).execution_id == item.execution_id


async def test_resumable_rows_are_no_completions(postgres: PostgresWorld) -> None:
    """A satisfied waitpoint is not delivered, live or stored, and moves the cursor."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        await postgres.announce(done(outcome="resumable"))
        await nothing(stream, done(), postgres)
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stored:
            assert (await first(stored)).outcome == "success"


async def test_rows_that_make_no_payload_are_counted_and_passed(
    postgres: PostgresWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A negative partition key is no id: skipped, counted, logged, and the stream goes on."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        await postgres.sql(
            "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " VALUES (-1, gen_random_uuid(), 'success', 0)"
        )
        await nothing(stream, done(), postgres)
        assert backend.stats().malformed == 1
    assert "no valid completion" in caplog.text


async def test_foreign_notifications_are_only_wake_ups(postgres: PostgresWorld) -> None:
    """Another schema's ids, nonsense, the same payload twice: nothing is delivered twice or lost."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        for payload in ("999999999", "nonsense", "", "-5", "1", "1"):
            await postgres.sql("SELECT pg_notify('ff_completion', %s)", (payload,))
        await nothing(stream, done(), postgres)
        assert backend.stats().state is ffc.BackendState.LIVE


async def test_a_flood_of_false_announcements_delivers_nothing_old(engine: PostgresWorld) -> None:
    """Ids of before the stream, of nobody, far above the newest, a deleted row: nothing comes of them, and no fault."""
    await engine.announce(*[done() for _ in range(50)])
    async with engine.backend() as backend, ffc.subscribe(backend) as stream:
        ((newest,),) = await engine.sql("SELECT max(event_id) FROM ff_completion_event")
        for query in (
            "SELECT pg_notify('ff_completion', n::text) FROM generate_series(1, 20000) n",
            f"SELECT pg_notify('ff_completion', ({newest} + 1000000 + n)::text) FROM generate_series(1, 50) n",
            "SELECT pg_notify('ff_completion', repeat('9', 5000))",
            "SELECT pg_notify('ff_completion', '9223372036854775807')",
        ):
            await engine.sql(query)
        gone = await engine.connect(autocommit=False)
        await insert(gone, done())
        await gone.execute(
            "DELETE FROM ff_completion_event WHERE event_id = (SELECT max(event_id) FROM ff_completion_event)"
        )
        await gone.commit()
        await gone.close()
        for _ in range(3):
            await nothing(stream, done(), engine)
        stats = backend.stats()
        assert (stats.reconnects, stats.state) == (0, ffc.BackendState.LIVE)
        await eventually(lambda: backend.stats().held == 0)


async def test_ids_below_one_are_passed(database: PostgresWorld) -> None:
    """Written by hand: subscribing works, from now and from the beginning."""
    await database.sql(
        "INSERT INTO ff_completion_event (partition_key, event_id, execution_id, outcome, occurred_at_ms)"
        " VALUES (1, -5, gen_random_uuid(), 'success', 0), (1, 0, gen_random_uuid(), 'success', 0)"
    )
    async with database.backend() as backend:
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), database)
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            await first(stream)
            await nothing(stream, done(), database)


async def test_an_idle_stream_asks_the_sequence_and_not_the_partitions(database: PostgresWorld) -> None:
    """Polling without anything new reads no row; what no notification told of is found within the interval."""
    await database.sql("ALTER TABLE ff_completion_event DISABLE TRIGGER ff_notify")
    scans = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'ff_completion_event'"
    async with database.backend(poll_interval=0.05) as backend, ffc.subscribe(backend) as stream:
        await asyncio.sleep(0.3)
        ((before,),) = await database.sql(scans)
        await asyncio.sleep(1.5)
        ((after,),) = await database.sql(scans)
        assert after - before <= 12, "two dozen polls"
        item = done()
        await database.announce(item)
        assert (await first(stream)).execution_id == item.execution_id


async def test_a_large_transaction_that_commits_late_is_read_in_order(
    engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking its rows up id by id takes an older server a millisecond for each, and everybody waits for that."""
    asked: list[int] = []
    real = Session.read_issued

    async def read_issued(self: Session, query: Query, values: Sequence[object]) -> tuple[list[Row], int | None]:
        asked.append(len(values[0]) if isinstance(values[0], list) else 0)
        return await real(self, query, values)

    monkeypatch.setattr(Session, "read_issued", read_issued)
    count, sparse = 3_000, 40
    async with engine.backend() as backend, ffc.subscribe(backend) as stream:
        large = await engine.connect(autocommit=False)
        text = (
            "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " SELECT n %% 256, gen_random_uuid(), 'success', 1700000000000 FROM generate_series(1, %s) n"
        )
        await large.execute(text, (count,))
        for _ in range(sparse):
            # Far apart from each other: in order they would be read with all that lies in between.
            await large.execute(text, (1,))
            await engine.sql("SELECT nextval('ff_completion_event_event_id_seq') FROM generate_series(1, 200)")
        await engine.announce(item := done())
        assert (await first(stream)).execution_id == item.execution_id
        await eventually(lambda: backend.stats().held > count)
        await large.commit()
        found = await some(stream, count + sparse, 30)
        assert len({payload.execution_id for payload in found}) == count + sparse
        await eventually(lambda: backend.stats().held == 0)
    assert max(asked) <= 32
    assert len(asked) <= 60
