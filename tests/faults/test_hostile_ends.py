"""Ends without a row, of a tenant that makes as many, as large, and as far off as it likes: nobody else misses its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, fetching, silent_reading, unread
from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.queries import Query
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually, first, some

NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
A = ffc.ScannerFilter("a")


async def flood(
    world: PostgresWorld, count: int, at_ms: str = NOW, *, tags: str = "0", partition: str = "n %% 256"
) -> None:
    """So many ends of a tenant's at once, with so many bytes of tags each; of the ``n``-th, its partition as well."""
    await world.sql(
        "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, terminal_at_ms, raw_fields)"
        f" SELECT {partition}, gen_random_uuid(), 'default', 'cancelled', {at_ms},"
        " jsonb_build_object('namespace', 'hostile', 'tags', jsonb_build_object('k', repeat('x', " + tags + ")))"
        " FROM generate_series(1, %s) n",
        (count,),
    )


async def ids(stream: ffc.CompletionStream, count: int) -> list[str]:
    return sorted(item.execution_id for item in await some(stream, count, 30))


class Answers:
    """How large they were: rows, and bytes of texts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.bytes: list[int] = []
        real = fetching.fetch_rows

        async def fetch_rows(
            conn: Connection, query: Query, values: Sequence[object], *, prepare: bool, tuned_already: bool
        ) -> tuple[list[object], frozenset[int]]:
            rows, unreadable = await real(conn, query, values, prepare=prepare, tuned_already=tuned_already)
            self.rows.append(len(rows))
            self.bytes.append(sum(len(row[2] or "") + len(row[3] or "") for row in rows if isinstance(row, tuple)))
            return rows, unreadable

        monkeypatch.setattr(silent_reading, "fetch_rows", fetch_rows)


@pytest.mark.parametrize("plain", [False, True], ids=["partitioned", "one table"])
async def test_more_ends_than_a_page_holds(engine: PostgresWorld, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes once, to everybody that it is for; no answer is larger than a page."""
    monkeypatch.setattr(unread, "_MOST_ROWS", 7)
    monkeypatch.setattr(unread, "_LEAST_ROWS", 3)
    answers = Answers(monkeypatch)
    schema, world = None, engine
    if plain:
        schema, path = "one_table", "options=-csearch_path%3Done_table%2Cpublic"
        world = PostgresWorld(18, engine.url + ("&" if "?" in engine.url else "?") + path)
        await engine.sql("DROP SCHEMA IF EXISTS one_table CASCADE; CREATE SCHEMA one_table")
        for table in ("ff_completion_event", "ff_exec_core", "ff_lane_registry"):
            await engine.sql(f"CREATE TABLE one_table.{table} (LIKE public.{table} INCLUDING ALL)")
    try:
        mine = [done(namespace="a", result=b"r") for _ in range(40)]
        for item in mine:
            await world.begins(item)
        wanted = sorted(item.execution_id for item in mine)
        async with PostgresBackend(engine.url, schema=schema, reconcile_interval=0.1, buffer_size=5) as backend:
            async with (
                ffc.subscribe(backend, A) as stream,
                ffc.subscribe(backend, A, results=True) as rich,
                ffc.subscribe(backend) as everything,
            ):
                marker = done(namespace="a")
                await world.announce(marker)
                for each in (stream, rich, everything):
                    assert (await first(each)).execution_id == marker.execution_id
                cursor = stream.cursor
                await flood(world, 60, partition="7")
                await world.cancels(*mine)
                await flood(world, 60)
                got = await asyncio.gather(ids(stream, 40), ids(rich, 40), ids(everything, 160))
                assert got[0] == got[1] == wanted
                assert len(set(got[2])) == 160
                await asyncio.sleep(0.3)
                last = done(namespace="a")
                await world.announce(last)
                for each in (stream, rich, everything):
                    assert (await first(each)).execution_id == last.execution_id
                assert stream.stats().filtered == 120
            async with ffc.subscribe(backend, A, cursor=cursor) as resumed:
                assert set(await ids(resumed, 41)) == {*wanted, last.execution_id}
        assert 0 < max(answers.rows) <= 7
    finally:
        await world.close()
        await engine.sql("DROP SCHEMA IF EXISTS one_table CASCADE")


async def test_heavy_ends_are_read_a_megabyte_at_a_time(engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen kilobytes of tags each: the answer is cut at the engine, and the next begins where it ended."""
    answers = Answers(monkeypatch)
    mine = done(namespace="a")
    await engine.begins(mine)
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A) as stream, ffc.subscribe(backend) as everything:
            await flood(engine, 400, tags="16000")
            await engine.cancels(mine)
            assert (await first(stream, 20)).execution_id == mine.execution_id
            assert len(set(await ids(everything, 401))) == 401
    assert 1 << 19 < max(answers.bytes) < (1 << 20) + (1 << 15)


async def test_a_page_that_is_cut_ends_where_the_next_one_begins(engine: PostgresWorld) -> None:
    """Heavy ends of one partition with light ones in between: none is passed over for a light one behind it."""
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend, ffc.subscribe(backend) as everything:
        await flood(engine, 160, tags="n %% 2 * 16000", partition="5")
        assert len(set(await ids(everything, 160))) == 160


async def test_slow_results_hold_up_nobodys_look(engine: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next looks, another stream with results that is answered, one that is behind; and closing is quick."""
    go_on = asyncio.Event()
    asked: list[Sequence[str]] = []
    real = Lookups.results

    async def results(asking: Lookups, conn: Connection, names: list[str], seconds: float) -> dict[str, Result]:
        asked.append(names)
        if any(name in slow_ids for name in names):
            await go_on.wait()
        return dict(await real(asking, conn, names, seconds))

    monkeypatch.setattr(Lookups, "results", results)
    slow_ones = [done(namespace="slow", result=b"s") for _ in range(3)]
    slow_ids = {item.execution_id for item in slow_ones}
    rounds = [[done(namespace="a", result=b"r") for _ in range(8)] for _ in range(3)]
    for item in [*slow_ones, *(item for items in rounds for item in items)]:
        await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.1, buffer_size=4) as backend:
        async with (
            ffc.subscribe(backend, ffc.ScannerFilter("slow"), results=True) as slow,
            ffc.subscribe(backend, A, results=True) as rich,
            ffc.subscribe(backend, A) as stream,
        ):
            await engine.cancels(*slow_ones)
            await eventually(lambda: bool(asked))
            for items in rounds:
                await engine.cancels(*items)
                wanted = sorted(item.execution_id for item in items)
                assert await ids(stream, 8) == await ids(rich, 8) == wanted
            assert slow.stats().delivered == 0
            go_on.set()
            assert {(p.execution_id, p.payload_bytes) for p in await some(slow, 3)} == {(id_, b"s") for id_ in slow_ids}
            go_on.clear()
            await engine.cancels(*slow_ones)
            before = len(asked)
            await eventually(lambda: len(asked) > before)
            started = asyncio.get_running_loop().time()
        await backend.aclose()
        assert asyncio.get_running_loop().time() - started < 8


@pytest.mark.parametrize(
    "ahead", ["50000", "3600000", "86400000000", "9223372036854775807 - " + NOW], ids=["soon", "1 h", "years", "max"]
)
async def test_ends_of_the_future_hide_none_of_the_present(engine: PostgresWorld, ahead: str) -> None:
    """Many of them, in the victims' own partition, at once and again later; each victim comes once."""
    early, late = ([done(namespace="a") for _ in range(5)] for _ in range(2))
    for item in (*early, *late):
        await engine.begins(item)
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A) as stream, ffc.subscribe(backend, A, results=True) as rich:
            for items in (early, late):
                await flood(engine, 300, f"{NOW} + ({ahead})", partition="n %% 3")
                await flood(engine, 20, "-9223372036854775808", partition="n %% 3")
                await engine.cancels(*items)
                for each in (stream, rich):
                    assert await ids(each, 5) == sorted(item.execution_id for item in items)
            await asyncio.sleep(0.3)
            last = done(namespace="a")
            await engine.announce(last)
            for each in (stream, rich):
                assert (await first(each)).execution_id == last.execution_id


@pytest.mark.parametrize("occurred", ["0", "-9223372036854775808", f"{NOW} + 3600000", "9223372036854775807"], ids=str)
async def test_a_row_that_lies_about_its_time_hides_and_repeats_no_end(engine: PostgresWorld, occurred: str) -> None:
    """Just below a stored position: what ended in silence since then is found, and what ended long before is not."""
    before, since = done(namespace="a"), done(namespace="a")
    for item in (before, since):
        await engine.begins(item)
    (row,) = await engine.sql(
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms, committed_at_ms)"
        f" VALUES (7, gen_random_uuid(), 'success', 'hostile', {occurred}, {NOW} - 3600000) RETURNING event_id"
    )
    for item, ago in ((before, 7_200_000), (since, 1_800_000)):
        ended = await engine.cancels(item)
        await engine.sql("UPDATE ff_exec_core SET terminal_at_ms = %s WHERE terminal_at_ms = %s", (ended - ago, ended))
    async with PostgresBackend(engine.url, reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A, cursor=ffc.StreamCursor.outbox(row[0])) as resumed:
            assert (await first(resumed, 10)).execution_id == since.execution_id
            await asyncio.sleep(0.3)
            last = done(namespace="a")
            await engine.announce(last)
            assert (await first(resumed)).execution_id == last.execution_id


@pytest.mark.parametrize("score", ["9007199254740991", "99999999999999", "1e300", "+inf", "-inf", "-1", "0.5"], ids=str)
async def test_scores_that_are_no_time_of_the_present_hide_none(valkey: ValkeyWorld, score: str) -> None:
    """In the victims' own key, before a stream and while it is open; found, overflowed: victims get exactly their own."""
    early, late = ([done(namespace="a", flow_id=None) for _ in range(6)] for _ in range(2))
    partition = early[0].execution_id[4:].partition("}:")[0]

    async def plant(count: int) -> None:
        for number in (partition, "0"):
            words = [word for _ in range(count) for word in (score, done().execution_id)]
            await valkey.command("ZADD", f"ff:idx:{{fp:{number}}}:lane:default:terminal", *words)

    await plant(150)
    async with valkey.backend(reconcile_interval=0.1, buffer_size=4) as backend:
        async with ffc.subscribe(backend, A) as stream, ffc.subscribe(backend, A, results=True) as rich:
            own = {item.execution_id for item in (*early, *late)}
            for items in (early, late):
                await plant(150)
                for item in items:
                    await valkey.finish(item)
                for each in (stream, rich):
                    missing = {item.execution_id for item in items}
                    async with asyncio.timeout(20):
                        while missing:
                            came = (await anext(each)).execution_id
                            assert came in own
                            missing.discard(came)
            assert stream.stats().lost == rich.stats().lost == 0
