"""Behind PgBouncer in transaction mode, on a streaming replica, and across its promotion: for real."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, beginning, beneath
from tests.worlds import PostgresWorld, done, eventually, insert, nothing, some
from tests.worlds.proxy import proxied
from tests.worlds.servers import pgbouncer, standby_of
from tests.worlds.templates import postgres


@pytest.fixture
def bouncer(postgres18_url: str, tmp_path: Path) -> Iterator[str]:
    """A pooler in transaction mode in front of the server; its URL."""
    with pgbouncer(postgres18_url, tmp_path) as url:
        yield url


async def test_a_transaction_pooler_is_noticed_and_polled(
    bouncer: str, postgres18_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """LISTEN is deaf there and says nothing: one clear warning, and everything arrives by polling."""
    world = PostgresWorld(18, postgres18_url)
    await world.reset()
    async with PostgresBackend(bouncer, poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        assert backend.stats().state is ffc.BackendState.POLLING
        items = [done() for _ in range(50)]
        await world.announce(*items)
        assert [p.execution_id for p in await some(stream, 50)] == [i.execution_id for i in items]
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stored:
            assert len(await some(stored, 50)) == 50
        await nothing(stream, done(), world)
    assert len([r for r in caplog.records if "pooler" in r.getMessage()]) == 1
    async with PostgresBackend(bouncer, poll_interval=0) as backend:
        with pytest.raises(ffc.Unavailable, match="polling is turned off"):
            await backend.subscribe_completions()
    await world.close()


async def test_a_listener_that_is_deaf_after_a_reconnect_is_no_connection_without_polling(
    bouncer: str, postgres18_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody puts a pooler in between: it is said and tried again, and nothing is lost once the way is direct."""
    world = PostgresWorld(18, postgres18_url)
    await world.reset()
    info = psycopg.conninfo.conninfo_to_dict(postgres18_url)
    direct = f"{info['host']}/.s.PGSQL.{info['port']}"
    deaf = ("127.0.0.1", int(psycopg.conninfo.conninfo_to_dict(bouncer)["port"] or 0))
    with proxied(direct) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        async with PostgresBackend(url, poll_interval=0) as backend, ffc.subscribe(backend) as stream:
            proxy.lead_to(deaf)
            proxy.cut()
            await eventually(lambda: "polling is turned off" in caplog.text, 20)
            assert backend.stats().state is ffc.BackendState.RECONNECTING
            items = [done() for _ in range(20)]
            await world.announce(*items)
            proxy.lead_to(direct)
            proxy.cut()
            assert [p.execution_id for p in await some(stream, 20)] == [i.execution_id for i in items]
            assert backend.stats().state is ffc.BackendState.LIVE
    await world.close()


class Pair:
    """A primary and its streaming replica."""

    def __init__(self, version: int) -> None:
        self.primary = postgres("hot_standby_feedback=on", version=version)
        self.standby = standby_of(self.primary)
        self.world = PostgresWorld(version, self.primary.url)

    @property
    def both(self) -> str:
        """One conninfo for whichever is the primary."""
        hosts = f"{self.primary.directory},{self.standby.directory}"
        return f"host={hosts} port=5432,5432 user=postgres dbname=postgres"

    async def replicated(self) -> None:
        """Wait until the replica has everything."""
        lsn = (await self.world.sql("SELECT pg_current_wal_lsn()::text"))[0][0]

        async def caught_up() -> bool:
            async with await psycopg.AsyncConnection.connect(self.standby.url, autocommit=True) as conn:
                row = await (await conn.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))).fetchone()
            return row == (True,)

        await eventually(caught_up)

    def close(self) -> None:
        self.standby.close()
        self.primary.close()


@pytest.fixture(params=[16, 18], ids=["postgres16", "postgres18"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


async def test_reading_from_a_replica_polls(pair: Pair) -> None:
    """LISTEN fails in recovery: polling takes over; without polling it is refused. Promotion is noticed."""
    async with PostgresBackend(pair.standby.url, poll_interval=0) as backend:
        with pytest.raises(ffc.Unavailable, match="polling is turned off"):
            await backend.subscribe_completions()
    async with PostgresBackend(pair.standby.url, poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        assert backend.stats().state is ffc.BackendState.POLLING
        items = [done() for _ in range(20)]
        await pair.world.announce(*items)
        assert [p.execution_id for p in await some(stream, 20)] == [i.execution_id for i in items]
        await pair.replicated()
        await pair.world.close()
        pair.primary.kill()
        promoted = PostgresWorld(18, pair.standby.url)
        await promoted.sql("SELECT pg_promote()")
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE, 20)
        await nothing(stream, done(), promoted)
        await promoted.close()


async def test_a_replica_loses_nobody_who_was_numbered_last(pair: Pair) -> None:
    """Of two transactions the later one takes the lower id, and commits after the other: to a replica nothing is under way."""
    items = done(), done(namespace="a")
    async with (
        PostgresBackend(pair.standby.url, poll_interval=0.1) as backend,
        ffc.subscribe(backend) as stream,
        ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered,
    ):
        first, last = [await pair.world.connect(autocommit=False) for _ in items]
        await first.execute("SELECT pg_current_xact_id()")
        await insert(last, items[1])
        await insert(first, items[0])
        await first.commit()
        assert (await some(stream, 1))[0].execution_id == items[0].execution_id
        position = stream.cursor
        # By then it used to be given up.
        await asyncio.sleep(0.5)
        await last.commit()
        for each in (stream, filtered):
            assert (await some(each, 1))[0].execution_id == items[1].execution_id
    async with (
        PostgresBackend(pair.standby.url, poll_interval=0.1) as backend,
        ffc.subscribe(backend, cursor=position) as resumed,
    ):
        assert [item.execution_id for item in await some(resumed, 2)] == [items[1].execution_id, items[0].execution_id]
    await pair.world.close()


async def test_a_replica_tells_of_what_lies_far_below(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock table knows no writers, and nothing is announced: what they have committed is looked for, also when all have."""
    monkeypatch.setattr(beginning, "LOOK_BACK", 10)
    monkeypatch.setattr(beneath, "_AGAIN_S", 0.2)
    slow, items = await pair.world.connect(autocommit=False), [done() for _ in range(20)]
    await slow.execute("SELECT pg_current_xact_id()")
    for item in items[:10]:
        await insert(slow, item)
    await slow.execute("SAVEPOINT one")
    for item in items[10:]:
        await insert(slow, item)
    await slow.execute("RELEASE one")
    await pair.world.announce(*(done() for _ in range(30)))
    await pair.replicated()
    async with PostgresBackend(pair.standby.url, poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        await slow.commit()
        await slow.close()
        assert [item.execution_id for item in await some(stream, 20)] == [item.execution_id for item in items]
        await nothing(stream, done(), pair.world)
    await pair.world.close()


async def test_promotion_loses_nothing_that_the_new_primary_has(pair: Pair) -> None:
    """Both hosts in one conninfo: the primary dies, the replica is promoted, the stream goes on."""
    async with PostgresBackend(pair.both) as backend, ffc.subscribe(backend) as stream:
        before = [done() for _ in range(20)]
        await pair.world.announce(*before)
        assert [p.execution_id for p in await some(stream, 20)] == [i.execution_id for i in before]
        await pair.replicated()
        # What the replica never gets: the stream has seen it, the new primary has not, and may give its ids anew.
        pair.standby.stop()
        only_here = [done() for _ in range(60)]
        await pair.world.announce(*only_here)
        assert len(await some(stream, 60)) == 60
        await pair.world.close()
        pair.primary.stop(signal.SIGKILL)
        pair.standby.start()
        promoted = PostgresWorld(18, pair.standby.url)
        await promoted.sql("SELECT pg_promote()")
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE, 20)
        after = [done() for _ in range(80)]
        await promoted.announce(*after)
        got: set[str] = set()
        wanted = {item.execution_id for item in after}
        async with asyncio.timeout(20):
            while not wanted <= got:
                got.add((await stream.__anext__()).execution_id)
        await promoted.close()
