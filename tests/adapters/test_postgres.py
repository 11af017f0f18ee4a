"""What is particular to the Postgres adapter."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, echoes
from ffcompletion.backends.postgres.reader import Reader
from ffcompletion.backends.postgres.session import Session
from ffcompletion.contract.stats import BackendState
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some


@pytest.fixture(scope="session")
def postgres18_url(engine18_url: str) -> str:
    """The engine's tables as they are."""
    return engine18_url


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


async def test_an_echo_that_was_only_late_ends_polling(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first echo missed its deadline: polling, until two in a row have come back."""

    async def late(session: Session, _: float) -> bool:
        session.polling_reason = "late"
        return False

    monkeypatch.setattr(Session, "first_echo", late)
    monkeypatch.setattr(echoes, "_ECHO_EVERY_S", 0.05)
    async with PostgresBackend(postgres.url, poll_interval=5) as backend:
        async with ffc.subscribe(backend) as stream:
            assert backend.stats().state is BackendState.POLLING
            await eventually(lambda: backend.stats().state is BackendState.LIVE)
            item = done()
            await postgres.announce(item)
            assert (await first(stream, 2)).execution_id == item.execution_id


async def test_an_error_of_our_own_is_a_fault_like_any_other(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader logs it, connects anew, and goes on; nothing is lost."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        real, bugs = Reader.drain, [KeyError("a bug")]

        async def drain(*args: Any) -> bool:
            if bugs:
                raise bugs.pop()
            return await real(*args)

        monkeypatch.setattr(Reader, "drain", drain)
        item = done()
        await postgres.announce(item)
        assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().reconnects == 1
    assert "an error of our own" in caplog.text


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


async def test_the_row_s_namespace_decides_and_the_core_s_where_it_has_none(postgres: PostgresWorld) -> None:
    """NULL in the outbox asks the core; no core and NULL admits nobody; the ambiguous tag column never decides."""
    wanted = ffc.ScannerFilter("a")
    tagged = ffc.ScannerFilter(instance_tag=("k", "v"))
    async with postgres.backend() as backend:
        stream = await backend.subscribe_completions_filtered(wanted)
        tags = await backend.subscribe_completions_filtered(tagged)
        conn = await postgres.connect()
        by_row, by_core, unknown = done(), done(namespace="a"), done()
        for item, namespace in ((by_row, "a"), (unknown, None), (done(namespace="a"), "b")):
            partition, _, bare = item.execution_id[4:].partition("}:")
            if item.namespace is not None:
                await conn.execute(
                    "INSERT INTO ff_exec_core (partition_key, execution_id, raw_fields) VALUES (%s, %s, %s)",
                    (partition, bare, json.dumps({"namespace": item.namespace})),
                )
            await conn.execute(
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, instance_tag,"
                " occurred_at_ms) VALUES (%s, %s, 'success', %s, 'k=v', 0)",
                (partition, bare, namespace),
            )
        await insert(conn, by_core)
        last = done(namespace="a", tags={"k": "v"})
        await insert(conn, last)
        await conn.close()
        expected = [by_row.execution_id, by_core.execution_id, last.execution_id]
        assert [p.execution_id for p in await some(stream, 3)] == expected
        assert (await first(tags)).execution_id == last.execution_id
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stored:
            assert [p.execution_id for p in await some(stored, 3)] == expected
        await stream.aclose()
        await tags.aclose()


async def test_foreign_notifications_are_only_wake_ups(postgres: PostgresWorld) -> None:
    """Another schema's ids, nonsense, the same payload twice: nothing is delivered twice or lost."""
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        for payload in ("999999999", "nonsense", "", "-5", "1", "1"):
            await postgres.sql("SELECT pg_notify('ff_completion', %s)", (payload,))
        await nothing(stream, done(), postgres)
        assert backend.stats().state is ffc.BackendState.LIVE


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


async def test_cursors_that_cannot_be_right(postgres: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Trimmed, or from the future: CursorExpired. A short hole: a warning."""
    await postgres.announce(*[done() for _ in range(50)])
    (low, high) = (await postgres.sql("SELECT min(event_id), max(event_id) FROM ff_completion_event"))[0]
    await postgres.sql("DELETE FROM ff_completion_event WHERE event_id < %s", (low + 40,))
    async with postgres.backend() as backend:
        with pytest.raises(ffc.CursorExpired, match="trimmed"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low)):
                pass
        with pytest.raises(ffc.CursorExpired, match="future"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(high + 1000)):
                pass
        caplog.set_level(logging.WARNING)
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low + 30)) as stream:
            assert len(await some(stream, 10)) == 10
        assert "cannot be told" in caplog.text
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(high)) as stream:
            await nothing(stream, done(), postgres)
        await postgres.sql("DELETE FROM ff_completion_event")
        with pytest.raises(ffc.CursorExpired, match="empty"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low)):
                pass


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("", 'no right to use the schema; GRANT USAGE ON SCHEMA "engine" TO "reader"'),
        ("GRANT USAGE ON SCHEMA engine TO reader", "no right to read the outbox; GRANT SELECT ON"),
        (
            "GRANT USAGE ON SCHEMA engine TO reader; GRANT SELECT ON engine.ff_completion_event TO reader",
            'GRANT SELECT ON "engine"."ff_exec_core" TO "reader"',
        ),
    ],
)
async def test_a_missing_right_is_named(postgres: PostgresWorld, setup: str, message: str) -> None:
    """With the GRANT that mends it; and with CONNECT, USAGE and SELECT alone everything works."""
    await postgres.sql("DROP SCHEMA IF EXISTS engine CASCADE; DROP ROLE IF EXISTS reader")
    await postgres.sql("CREATE SCHEMA engine; CREATE ROLE reader LOGIN")
    await postgres.sql(
        "CREATE TABLE engine.ff_completion_event (LIKE public.ff_completion_event INCLUDING ALL);"
        "CREATE TABLE engine.ff_exec_core (LIKE public.ff_exec_core INCLUDING ALL)"
    )
    try:
        if setup:
            await postgres.sql(setup)
        url = postgres.url.replace("postgres@", "reader@", 1)
        async with PostgresBackend(url, schema="engine", poll_interval=0.1) as backend:
            with pytest.raises(ffc.Unavailable) as caught:
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            assert message in str(caught.value)
            await postgres.sql(
                "GRANT USAGE ON SCHEMA engine TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA engine TO reader"
            )
            async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
                await postgres.sql(
                    "INSERT INTO engine.ff_completion_event (partition_key, execution_id, outcome, namespace,"
                    " occurred_at_ms) VALUES (7, gen_random_uuid(), 'success', 'a', 0)"
                )
                assert (await first(stream)).outcome == "success"
    finally:
        await postgres.sql("DROP SCHEMA engine CASCADE; DROP ROLE reader")


async def test_a_schema_without_the_tables(postgres: PostgresWorld) -> None:
    """No schema, no outbox, no core: named, with the remedy."""
    async with PostgresBackend(postgres.url, schema="nowhere") as backend:
        with pytest.raises(ffc.Unavailable, match="no schema 'nowhere'"):
            await backend.subscribe_completions()
    async with PostgresBackend(postgres.url, schema="pg_catalog") as backend:
        with pytest.raises(ffc.Unavailable, match="producers install"):
            await backend.subscribe_completions()
    await postgres.sql("CREATE SCHEMA IF NOT EXISTS bare")
    await postgres.sql("CREATE TABLE IF NOT EXISTS bare.ff_completion_event (LIKE ff_completion_event INCLUDING ALL)")
    async with PostgresBackend(postgres.url, schema="bare") as backend:
        async with ffc.subscribe(backend):
            pass
        with pytest.raises(ffc.Unavailable, match="ff_exec_core"):
            await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
    await postgres.sql("DROP SCHEMA bare CASCADE")


async def test_tags_that_are_not_strings(postgres: PostgresWorld) -> None:
    """A JSON number is no string: it matches by its text in SQL and in the loop alike."""
    conn = await postgres.connect()
    item = done(namespace="a")
    partition, _, bare = item.execution_id[4:].partition("}:")
    await conn.execute(
        "INSERT INTO ff_exec_core (partition_key, execution_id, raw_fields) VALUES (%s, %s, %s)",
        (partition, bare, json.dumps({"namespace": "a", "tags": {"n": 5, "x": None}})),
    )
    wanted = ffc.ScannerFilter("a", ("n", "5"))
    async with postgres.backend() as backend:
        live = await backend.subscribe_completions_filtered(wanted)
        await insert(conn, item, core=False)
        await conn.close()
        assert (await first(live)).execution_id == item.execution_id
        async with ffc.subscribe(backend, wanted, cursor=ffc.StreamCursor.beginning()) as stored:
            assert (await first(stored)).execution_id == item.execution_id
        await live.aclose()


@pytest.mark.parametrize(
    "bad", ["postgresql://u:sEcReT@h:bad", "host=h password='sEcReT", "postgresql://u:sEcReT@h/%zz"]
)
async def test_a_malformed_conninfo_is_refused_without_its_password(bad: str) -> None:
    """``Validation``, and the password in neither text nor cause."""
    with pytest.raises(ffc.Validation) as caught:
        ffc.connect(bad)
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "url" in str(caught.value)
    assert "sEcReT" not in shown or caught.value.__suppress_context__


async def test_many_streams_share_one_listener(postgres: PostgresWorld) -> None:
    """A hundred streams: one listening connection and one that reads."""
    async with postgres.backend() as backend:
        streams = [await backend.subscribe_completions() for _ in range(100)]
        assert await postgres.connections() <= 2
        item = done()
        await postgres.announce(item)
        for stream in streams:
            assert (await first(stream)).execution_id == item.execution_id
            await stream.aclose()


async def test_a_pool_of_the_caller_s_own(postgres: PostgresWorld) -> None:
    """Used, left open, and exhausted: ``ResourceExhausted`` at set-up; connections out of autocommit are refused."""
    kwargs = {"autocommit": True}
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=2, kwargs=kwargs, open=False) as pool:
        async with PostgresBackend(postgres.url, pool=pool, setup_timeout=2) as backend:
            async with ffc.subscribe(backend) as stream:
                await nothing(stream, done(), postgres)
                async with pool.connection() as busy:
                    with pytest.raises(ffc.ResourceExhausted, match="pool"):
                        await backend.subscribe_completions_from(ffc.StreamCursor.outbox(1))
                    assert busy.info.backend_pid
                await nothing(stream, done(), postgres)
        async with pool.connection() as conn:
            assert await (await conn.execute("SHOW plan_cache_mode")).fetchone() == ("auto",)
    async with AsyncConnectionPool(postgres.url, min_size=1, open=False) as pool:
        async with PostgresBackend(postgres.url, pool=pool) as backend:
            with pytest.raises(ffc.Unavailable, match="autocommit"):
                await backend.subscribe_completions()


async def test_an_outbox_that_was_emptied(postgres: PostgresWorld) -> None:
    """What was trimmed is no gap: cursors begin at the last id given out, and a writer under way is not missed."""
    await postgres.announce(*[done() for _ in range(5)])
    under_way = await postgres.connect(autocommit=False)
    early = done()
    await insert(under_way, early)
    await postgres.sql("DELETE FROM ff_completion_event")
    (issued,) = (await postgres.sql("SELECT last_value FROM ff_completion_event_event_id_seq"))[0]
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        item = done()
        await postgres.announce(item)
        got = await first(stream)
        assert got.execution_id == item.execution_id
        assert got.cursor.event_id < issued
        await under_way.commit()
        assert (await first(stream)).execution_id == early.execution_id
    await postgres.sql("DELETE FROM ff_completion_event")
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        await postgres.announce(item)
        assert (await first(stream)).cursor.event_id == issued + 2
