"""A pool of the caller's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import Done, PostgresWorld, done, first, nothing


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


async def test_questions_leave_a_caller_s_own_pool_as_it_was(engine: PostgresWorld) -> None:
    """No setting of ours stays on its connections."""
    from psycopg_pool import AsyncConnectionPool

    kwargs = {"autocommit": True}
    async with AsyncConnectionPool(engine.url, min_size=1, max_size=3, kwargs=kwargs, open=False) as pool:
        async with (
            PostgresBackend(engine.url, pool=pool) as backend,
            ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream,
        ):
            item: Done = done(namespace="a")
            await engine.announce(item)
            assert (await first(stream)).execution_id == item.execution_id
        for _ in range(3):
            async with pool.connection() as conn:
                found = await (await conn.execute(
                    "SELECT current_setting('jit'), current_setting('max_parallel_workers_per_gather')"
                )).fetchone()  # fmt: skip
                assert found == ("on", "2")


class Signed(AsyncConnection[DictRow]):
    """As one that fetches a token before it connects."""


async def test_a_caller_s_own_pool_may_read_rows_as_it_likes(engine: PostgresWorld) -> None:
    """Rows as dicts, placeholders of the server's own kind, a class of connection of one's own: all works, and stays so."""
    from psycopg_pool import AsyncConnectionPool

    kwargs = {"autocommit": True, "row_factory": dict_row, "cursor_factory": AsyncRawCursor}
    wanted, item = ffc.ScannerFilter("a", ("k", "v")), done(namespace="a", tags={"k": "v"}, result=b"r")
    async with AsyncConnectionPool(
        engine.url, min_size=1, max_size=3, kwargs=kwargs, connection_class=Signed, open=False
    ) as pool:
        async with ffc.connect(engine.url, pool=pool) as backend:
            async with ffc.subscribe(backend, wanted, results=True) as stream:
                await engine.announce(item)
                got = await first(stream)
                assert (got.execution_id, got.payload_bytes) == (item.execution_id, b"r")
                assert got.cursor is not None
            found = await backend.describe_execution(item.execution_id)
            assert found is not None
            assert (found.namespace, found.tags) == ("a", {"k": "v"})
            start = ffc.StreamCursor.beginning()
            async with ffc.subscribe(backend, wanted, cursor=start) as stream:
                async with asyncio.timeout(20):
                    while (await anext(stream)).execution_id != item.execution_id:
                        pass
        for _ in range(3):
            async with pool.connection() as conn:
                row = await (await conn.execute("SELECT $1::int AS one", (1,))).fetchone()
                assert row == {"one": 1}


def test_what_is_no_pool_for_this_is_refused_at_once() -> None:
    """One for code that blocks, or anything else."""
    from psycopg_pool import ConnectionPool

    odd_ones: list[Any] = [ConnectionPool("", open=False), "postgresql://x/y"]
    for odd in odd_ones:
        with pytest.raises(ffc.Validation, match=rf"AsyncConnectionPool is needed, not a {type(odd).__name__}"):
            ffc.connect("postgresql://x/y", pool=odd)
