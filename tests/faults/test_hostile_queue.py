"""The server's queue of notifications, which any role may fill that can connect."""

from __future__ import annotations

import contextlib

import psycopg

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import PostgresWorld, done, eventually, first
from tests.worlds.templates import postgres


async def test_a_queue_that_somebody_fills_keeps_nobody_from_what_is_there() -> None:
    """Streams that are open, resumed and new go on by polling, and waits end; and soon after, writers can announce again."""
    with postgres("max_notify_queue_pages=64", version=18) as server:
        async with PostgresWorld(18, server.url) as world:
            await world.sql("CREATE ROLE nobody LOGIN")
            url = psycopg.conninfo.make_conninfo(server.url, user="nobody")
            stored, waited, item = done(), done(), done()
            await world.announce(stored)
            await world.begins(waited)
            backend = world.backend()
            assert isinstance(backend, PostgresBackend)
            async with backend, ffc.subscribe(backend) as stream:
                async with await psycopg.AsyncConnection.connect(url) as hostile:
                    await hostile.execute("LISTEN x")
                    await hostile.commit()
                    await hostile.execute("SELECT 1")
                    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as flooding:
                        with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):
                            for number in range(1_000):
                                await flooding.execute("SELECT pg_notify('x', %s)", (f"{number}{'x' * 7_900}",))
                    await eventually(lambda: backend.stats().state is ffc.BackendState.POLLING)
                    async with (
                        world.backend() as other,
                        ffc.subscribe(other, cursor=ffc.StreamCursor.beginning()) as resumed,
                    ):
                        assert (await first(resumed, 10)).execution_id == stored.execution_id
                    await world.cancels(waited)
                    done_ = await ffc.wait_for_completion(backend, waited.execution_id, timeout=10)
                    assert done_.outcome == "cancelled"

                async def announced() -> bool:
                    try:
                        await world.announce(item)
                    except psycopg.errors.ProgramLimitExceeded:
                        return False
                    return True

                await eventually(announced, 20)
                while (await first(stream, 10)).execution_id != item.execution_id:
                    pass
                await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
