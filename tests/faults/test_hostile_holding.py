"""Transactions that do not end, of a role that may write: they hold positions, and nobody else's rows."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, beginning, beneath, fetching, pages, reader, states
from tests.worlds import PostgresWorld, done, eventually, first, insert, nothing, some

A = ffc.ScannerFilter("a")
# It takes the lock that every writer takes, and no id.
NOTHING = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
    " SELECT 1, gen_random_uuid(), 'success', 1 WHERE false"
)
# Ids that are given out and never come, and no more notifications than one for as many rows as there are.
BURNT = "SELECT count(nextval('ff_completion_event_event_id_seq')) FROM generate_series(1, %s)"


async def unannounced(conn: Any, *items: Any) -> list[int]:
    """Rows that nobody is told of. Their ids."""
    await conn.execute("SET LOCAL session_replication_role = replica")
    return [await insert(conn, item) for item in items]


async def quietly(conn: Any, *items: Any) -> int:
    """As our producer announces what one statement writes: the last of it. Its id."""
    ids = await unannounced(conn, *items)
    await conn.execute("SELECT pg_notify('ff_completion', %s)", (str(ids[-1]),))
    return ids[-1]


async def test_a_transaction_that_does_not_end_keeps_no_rows_back(postgres: PostgresWorld) -> None:
    """Of others, who commit late, far below what is there by then: they come while it goes on, each once."""
    hostile, writer = [await postgres.connect(autocommit=False) for _ in range(2)]
    await hostile.execute(NOTHING.encode())
    items = [done(namespace="a") for _ in range(40)]
    wanted = [item.execution_id for item in items]
    async with postgres.backend() as backend:
        async with ffc.subscribe(backend, A) as stream, ffc.subscribe(backend) as everything:
            assert isinstance(stream, ffc.Subscription)
            await quietly(writer, *items)
            await postgres.sql(BURNT, (2_000,))
            marker = done(namespace="a")
            await postgres.announce(marker)
            for each in (stream, everything):
                assert [item.execution_id for item in await some(each, 1)] == [marker.execution_id]
            await writer.commit()
            for each in (stream, everything):
                assert sorted(item.execution_id for item in await some(each, 40, 10)) == sorted(wanted)
            before = stream.cursor
            assert before is not None
            await hostile.rollback()
            last = done(namespace="a")
            await postgres.announce(last)
            for each in (stream, everything):
                assert (await first(each)).execution_id == last.execution_id
            await eventually(lambda: stream.cursor is not None and stream.cursor.position > before.position)


@pytest.mark.parametrize("results", [False, True], ids=["plain", "results"])
@pytest.mark.parametrize("wanted", [None, A], ids=["everything", "filtered"])
async def test_who_resumes_far_below_what_is_there_misses_no_writer(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, wanted: ffc.ScannerFilter | None, results: bool
) -> None:
    """However much was written, or given out and not used, beside a transaction that goes on while readers come and go."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    before, late = done(namespace="a"), [done(namespace="a") for _ in range(40)]
    writer = await postgres.connect(autocommit=False)
    await postgres.announce(before)
    async with postgres.backend() as backend:
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            cursor = (await first(stream)).cursor
    highest = await quietly(writer, *late)
    await postgres.sql(BURNT, (2_000,))
    stored = [done(namespace="a") for _ in range(50)]
    await postgres.announce(*stored)
    got: list[str] = []
    # The first one ends before the writer has.
    for commits in (False, True):
        async with postgres.backend() as backend:
            async with ffc.subscribe(backend, wanted, cursor=cursor, results=results) as stream:
                got += [item.execution_id for item in await some(stream, 50)]
                live = done(namespace="a")
                await postgres.announce(live)
                stored.append(live)
                last = await first(stream)
                while last.execution_id != live.execution_id:
                    last = await first(stream)
                assert last.cursor is not None
                assert last.cursor.position < highest
                cursor = stream.cursor
                assert cursor is not None
                assert cursor.position < highest
                if commits:
                    await writer.commit()
                    assert {item.execution_id for item in await some(stream, 40, 10)} == {i.execution_id for i in late}
                    await eventually(lambda: stream.cursor is not None and stream.cursor.position > highest)
    assert {item.execution_id for item in stored[:50]} <= set(got)


async def test_who_resumes_far_below_misses_nobody_who_ends_in_that_moment(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was read before the commit, and nobody is under way any more when it has come."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    monkeypatch.setattr(states, "_JOIN_WITHIN", 10)
    late = [done() for _ in range(5)]
    stored = [done() for _ in range(60)]
    writer, other = [await postgres.connect(autocommit=False) for _ in range(2)]
    await postgres.announce(*stored[:20])
    await quietly(writer, *late)
    await postgres.announce(*stored[20:])
    async with postgres.backend() as backend, ffc.subscribe(backend):
        assert isinstance(backend, PostgresBackend)
        run = backend._run
        assert run is not None
        tracker = run.reader.tracker

        async def and_then_it_ends(*args: Any, **named: Any) -> Any:
            rows = await fetching.fetch_page(*args, **named)
            if tracker.owned:
                await writer.commit()
                # A gap has the owners asked for.
                await insert(other, done())
                await postgres.announce(done())
                await eventually(lambda: not tracker.owned)
                await other.rollback()
            return rows

        monkeypatch.setattr(pages, "fetch_page", and_then_it_ends)
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as resumed:
            got = [item.execution_id for item in await some(resumed, 66, 10)]
        assert {item.execution_id for item in (*stored, *late)} <= set(got)


async def test_ids_that_are_burnt_keep_nobody_from_what_is_under_way(postgres: PostgresWorld) -> None:
    """A stream from now on: as far as there are rows it is looked back, however many ids lie between them."""
    late = [done(namespace="a") for _ in range(20)]
    writer = await postgres.connect(autocommit=False)
    await postgres.announce(done())
    await quietly(writer, *late)
    await postgres.sql(
        "SELECT setval('ff_completion_event_event_id_seq', nextval('ff_completion_event_event_id_seq') + 10000000)"
    )
    await postgres.announce(done())
    async with postgres.backend() as backend, ffc.subscribe(backend, A) as stream:
        await writer.commit()
        assert {item.execution_id for item in await some(stream, 20, 10)} == {item.execution_id for item in late}


@pytest.mark.parametrize("prepared", [False, True], ids=["a session", "prepared"])
@pytest.mark.parametrize("released", [False, True], ids=["", "released"])
async def test_announcements_of_what_lies_far_below_are_not_taken_at_their_word(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, prepared: bool, released: bool
) -> None:
    """Whoever may send one makes nobody get what was there; what somebody under way commits is got by all, each once."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    stored, late = [done(namespace="a") for _ in range(50)], [done(namespace="a") for _ in range(40)]
    writer = await postgres.connect(autocommit=False)
    await postgres.announce(*stored[:20])
    await unannounced(writer, *late[:20])
    # A subtransaction has a number of its own.
    await writer.execute("SAVEPOINT one")
    last = max([await insert(writer, item) for item in late[20:]])
    if released:
        # And no lock on it any more.
        await writer.execute("RELEASE one")
    await postgres.announce(*stored[20:])
    if prepared:
        await writer.execute("PREPARE TRANSACTION 'late'")
    try:
        async with postgres.backend() as backend:
            async with (
                ffc.subscribe(backend, A) as stream,
                ffc.subscribe(backend, A, cursor=ffc.StreamCursor.beginning()) as resumed,
            ):
                assert len(await some(resumed, 50)) == 50
                await postgres.sql("SELECT pg_notify('ff_completion', event_id::text) FROM ff_completion_event")
                marker = done(namespace="a")
                await postgres.announce(marker)
                for each in (stream, resumed):
                    assert (await first(each)).execution_id == marker.execution_id
                await postgres.sql("COMMIT PREPARED 'late'") if prepared else await writer.commit()
                await postgres.sql("SELECT pg_notify('ff_completion', %s)", (str(last),))
                for each in (stream, resumed):
                    assert sorted(item.execution_id for item in await some(each, 40, 10)) == sorted(
                        item.execution_id for item in late
                    )
                marker = done(namespace="a")
                await postgres.announce(marker)
                for each in (stream, resumed):
                    assert (await first(each)).execution_id == marker.execution_id
    finally:
        await writer.rollback()
        if rows := await postgres.sql("SELECT gid FROM pg_prepared_xacts"):
            await postgres.sql(f"ROLLBACK PREPARED '{rows[0][0]}'")


async def test_what_lies_far_below_comes_also_where_its_announcement_was_not_heard(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made while a connection was broken: to streams that were open all the time, each row once."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    monkeypatch.setattr(beneath, "_ROWS", 7)
    late, stored = [done(namespace="a") for _ in range(40)], [done(namespace="a") for _ in range(30)]
    writer, other = [await postgres.connect(autocommit=False) for _ in range(2)]
    await other.execute(NOTHING.encode())
    await postgres.announce(*stored[:5])
    await unannounced(writer, *late)
    await postgres.announce(*stored[5:])
    async with (
        postgres.backend(poll_interval=0.2) as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, A) as filtered,
        ffc.subscribe(backend, A, results=True) as rich,
    ):
        await writer.commit()
        # As the engine claims rows: none of them is new for that.
        await postgres.sql("UPDATE ff_completion_event SET dispatched_at_ms = 1 WHERE event_id <= 5")
        for _ in range(2):
            await postgres.drop_connections()
            await eventually(lambda: backend.stats().state is not ffc.BackendState.LIVE)
            await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
            marker = done(namespace="a")
            await postgres.announce(marker)
            late.append(marker)
        for each in (stream, filtered, rich):
            assert sorted(item.execution_id for item in await some(each, 42, 10)) == sorted(
                item.execution_id for item in late
            )
        await nothing(stream, last := done(namespace="a"), postgres)
        for each in (filtered, rich):
            assert (await first(each)).execution_id == last.execution_id


@pytest.mark.parametrize("heard", [True, False], ids=["announced late", "not heard"])
async def test_who_has_read_what_lies_far_below_is_not_given_it_again(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """Streams that resumed below it have read it where it is stored, before its announcement came to the others."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    late, stored = [done(namespace="a") for _ in range(40)], [done(namespace="a") for _ in range(30)]
    writer, other = [await postgres.connect(autocommit=False) for _ in range(2)]
    await other.execute(NOTHING.encode())
    await postgres.announce(*stored[:5])
    last = max(await unannounced(writer, *late))
    await postgres.announce(*stored[5:])
    start = ffc.StreamCursor.beginning()
    async with (
        postgres.backend(poll_interval=0.2) as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, A) as filtered,
    ):
        await writer.commit()
        async with (
            ffc.subscribe(backend, cursor=start) as resumed,
            ffc.subscribe(backend, A, cursor=start) as some_of_it,
            ffc.subscribe(backend, A, cursor=start, results=True) as rich,
        ):
            for each in (resumed, some_of_it, rich):
                assert len(await some(each, 70, 10)) == 70
            if heard:
                await postgres.sql("SELECT pg_notify('ff_completion', %s)", (str(last),))
            else:
                await postgres.drop_connections()
            for each in (stream, filtered):
                assert {item.execution_id for item in await some(each, 40, 10)} == {item.execution_id for item in late}
            await postgres.announce(marker := done(namespace="a"))
            for each in (stream, filtered, resumed, some_of_it, rich):
                assert (await first(each)).execution_id == marker.execution_id
            for each in (resumed, some_of_it, rich):
                assert isinstance(each, ffc.Subscription)
                stats = each.stats()
                assert (stats.delivered, stats.filtered, stats.undecided) == (71, 0, 0)


async def test_a_slow_stream_misses_nothing_far_below(postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what the others were handed while it had fallen behind; with room for all of it, nobody falls."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    # They are handed out in several batches.
    monkeypatch.setattr(reader, "_PAGE", 10)
    late, stored = [done(namespace="a") for _ in range(120)], [done(namespace="a") for _ in range(30)]
    writer, other = [await postgres.connect(autocommit=False) for _ in range(2)]
    await other.execute(NOTHING.encode())
    await postgres.announce(*stored[:5])
    await quietly(writer, *late)
    await postgres.announce(*stored[5:])
    async with (
        postgres.backend(poll_interval=0.2, buffer_size=20) as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, A) as filtered,
        ffc.subscribe(backend, A, results=True) as rich,
    ):
        await writer.commit()
        marker = done(namespace="a")
        await eventually(lambda: backend.stats().received >= 120)
        await postgres.announce(marker)
        for each in (stream, filtered, rich):
            assert sorted(item.execution_id for item in await some(each, 121, 10)) == sorted(
                item.execution_id for item in (*late, marker)
            )
        await nothing(stream, last := done(namespace="a"), postgres)
        for each in (filtered, rich):
            assert (await first(each)).execution_id == last.execution_id
