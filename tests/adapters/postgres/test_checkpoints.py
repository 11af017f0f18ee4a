"""Positions in a table, and one consumer for a name."""

from __future__ import annotations

import asyncio
import uuid

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.backends.postgres.connection import Connection
from tests.consumers.keeping import BEGINNING, CHECKPOINT
from tests.doors.sync.blocking import Plain
from tests.worlds import (
    PostgresWorld,
    done,
    templates,
)


async def test_the_table(postgres: PostgresWorld) -> None:
    """Made when first used; by name; a connection that breaks is made again; another schema."""
    await postgres.sql("DROP TABLE IF EXISTS ffcompletion_checkpoint")
    await postgres.sql("CREATE SCHEMA IF NOT EXISTS elsewhere")
    async with PostgresCheckpoints(postgres.url) as store:
        assert await store.load("a") is None
        await store.save("a", CHECKPOINT)
        await store.save("b", ffc.Checkpoint(cursor=BEGINNING, backend="x", selection=""))
        await store.save("a", CHECKPOINT)
        assert await store.load("a") == CHECKPOINT
        await postgres.drop_connections()
        # On a fresh one, once more.
        assert await store.load("a") == CHECKPOINT
    with pytest.raises(ffc.Unavailable, match="closed"):
        await store.load("a")
    async with PostgresCheckpoints(postgres.url, schema="elsewhere", table='odd "name') as store:
        await store.save("a", CHECKPOINT)
        assert await store.load("a") == CHECKPOINT
    await postgres.sql("DROP SCHEMA elsewhere CASCADE")
    rows = await postgres.sql(
        "SELECT name, saved_at > now() - interval '1 minute' FROM ffcompletion_checkpoint ORDER BY 1"
    )
    assert rows == [("a", True), ("b", True)]


async def test_the_table_over_restarts(postgres: PostgresWorld) -> None:
    """A consumer and its store on one server."""
    items = [done() for _ in range(4)]
    for part in (items[:2], items[2:]):
        await postgres.announce(*part)
        async with PostgresCheckpoints(postgres.url) as store, postgres.backend() as backend:
            async with ffc.checkpointed(backend, store, "promoter", start=BEGINNING) as completions:
                assert [(await anext(completions)).execution_id for _ in part] == [i.execution_id for i in part]
                await completions.commit()


async def test_a_lease_that_was_lost_with_its_connection(postgres18_url: str) -> None:
    """It is taken again with the next one; where another was faster, saving raises rather than go on beside it."""
    world = PostgresWorld(18, postgres18_url)
    checkpoint = ffc.Checkpoint(cursor=BEGINNING, backend="", selection="")
    async with (
        PostgresCheckpoints(world.url, table="leased") as one,
        PostgresCheckpoints(world.url, table="leased") as two,
    ):
        await one.acquire("a", wait=False)
        await world.drop_connections()
        await one.save("a", checkpoint)
        with pytest.raises(ffc.Unavailable, match="another consumer"):
            await two.acquire("a", wait=False)
        await world.drop_connections()
        await two.acquire("a", wait=False)
        with pytest.raises(ffc.Unavailable, match="another consumer"):
            await one.save("a", checkpoint)
    await world.close()


async def test_a_lease_is_of_the_table_however_it_is_named(postgres18_url: str) -> None:
    """With its schema or without: two replicas may be configured otherwise, and write the same row."""
    table = f"leased_{uuid.uuid4().hex}"
    async with (
        PostgresCheckpoints(postgres18_url, table=table) as found,
        PostgresCheckpoints(postgres18_url, table=table, schema="public") as named,
        PostgresCheckpoints(postgres18_url, table=f"{table}_2") as another,
    ):
        await found.acquire("a", wait=False)
        with pytest.raises(ffc.Unavailable, match="another consumer"):
            await named.acquire("a", wait=False)
        await another.acquire("a", wait=False)
        await found.release("a")
        await named.acquire("a", wait=False)


async def test_a_holder_whose_machine_is_gone_is_found_out() -> None:
    """By the server, which asks whether it is there, of whoever holds a lease."""
    port = embedded.free_port()
    with templates.postgres("listen_addresses=127.0.0.1", port=port):
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with PostgresCheckpoints(url) as store:
            await store.acquire("a", wait=False)
            assert store._conn is not None
            shown = [
                await (await store._conn.execute(f"SHOW tcp_keepalives_{name}")).fetchone()
                for name in ("idle", "interval", "count")
            ]
            assert shown == [("15",), ("5",), ("3",)]
            await store.release("a")


async def test_a_lease_that_was_lost_is_that_name_s_alone(postgres18_url: str) -> None:
    """The store's others go on; the lost one stays lost until it is released, whoever has it meanwhile."""
    world = PostgresWorld(18, postgres18_url)
    first, later = (ffc.Checkpoint(cursor=ffc.StreamCursor.outbox(n), backend="", selection="") for n in (1, 2))
    async with (
        PostgresCheckpoints(world.url, table="leased_many") as one,
        PostgresCheckpoints(world.url, table="leased_many") as two,
    ):
        for name in "ab":
            await one.acquire(name, wait=False)
            await one.save(name, first)
        await world.drop_connections()
        await two.acquire("a", wait=False)
        await two.save("a", later)
        await one.save("b", later)
        assert await one.load("b") == later
        for use in one.save("a", first), one.load("a"):
            with pytest.raises(ffc.Unavailable, match="another consumer runs 'a'"):
                await use
        await two.release("a")
        await world.drop_connections()
        # Nobody has it now; but the position that is kept is the other's.
        with pytest.raises(ffc.Unavailable, match="another consumer runs 'a'"):
            await one.save("a", first)
        await one.save("b", later)
        with pytest.raises(ffc.Unavailable, match="another consumer runs 'b'"):
            await two.acquire("b", wait=False)
        await one.release("a")
        await one.acquire("a", wait=False)
        assert await one.load("a") == later
    await world.close()


async def test_giving_up_a_lease_hides_nobody_s_error(postgres18_url: str) -> None:
    """Where the server is gone by then, so is the lease; and no other connection is made for it."""
    world = PostgresWorld(18, postgres18_url)
    passwords = ["of the one connection"]
    async with (
        MemoryBackend() as backend,
        PostgresCheckpoints(world.url, table="leased_last", password=passwords.pop) as store,
    ):
        with pytest.raises(ZeroDivisionError):
            async with ffc.checkpointed(backend, store, "a", lease="raise"):
                await world.drop_connections()
                raise ZeroDivisionError
        assert not passwords
        async with PostgresCheckpoints(world.url, table="leased_last") as another:
            await another.acquire("a", wait=False)
    await world.close()


async def test_a_store_that_is_closed_while_it_is_used_keeps_no_connection(postgres18_url: str) -> None:
    """By another thread, as the answer comes: whoever asked gives it up."""
    store = PostgresCheckpoints(postgres18_url, table="closed_meanwhile")
    used: list[Connection] = []

    async def work(conn: Connection) -> None:
        used.append(conn)
        await asyncio.to_thread(store.close)

    await store._connected("use it", work)
    assert used[0].closed
    with pytest.raises(ffc.Unavailable, match="the store is closed"):
        await store.load("a")


def test_a_table_of_checkpoints_is_closed_by_code_that_blocks(postgres18_url: str) -> None:
    """With its lease; and an error of the block's own comes out, whatever has become of the store."""
    plain = Plain(PostgresWorld(18, postgres18_url))
    items = [done() for _ in range(3)]
    with plain.backend() as backend:
        plain.do(plain.world.announce(*items))
        for number in range(2):
            store = PostgresCheckpoints(postgres18_url, table="blocking")
            with store, pytest.raises(ZeroDivisionError):
                with backend.checkpointed(store, "a", start=ffc.StreamCursor.beginning(), lease="raise") as completions:
                    assert next(completions).execution_id == items[number].execution_id
                    next(completions)
                    if number:
                        store.close()
                    raise ZeroDivisionError
            store.close()
            with pytest.raises(ffc.Unavailable, match="the store is closed"), backend.checkpointed(store, "a"):
                pass
    plain.close()
