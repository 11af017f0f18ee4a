"""Our own connections: few, made on demand; whoever cannot have one is told at once why, and none is used that is no good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import psycopg
import pytest

from ffcompletion.backends.postgres.connection import Connection, Target
from ffcompletion.backends.postgres.errors import PoolBusy, PoolOver
from ffcompletion.backends.postgres.pool import OwnPool
from tests.worlds import PostgresWorld, eventually


class Made:
    """A pool of three, and every connection that it made."""

    def __init__(self, url: str, idle_s: float = 60.0) -> None:
        self._target = Target(url, 8.0)
        self.conns: list[Connection] = []
        self.pool = OwnPool(self._connect, 3, idle_s, 8.0)

    async def _connect(self, limit_s: float) -> Connection:
        conn = await self._target.connect()
        self.conns.append(conn)
        return conn

    @property
    def open(self) -> int:
        return sum(not conn.closed for conn in self.conns)


@pytest.fixture
async def made(postgres: PostgresWorld) -> AsyncGenerator[Made]:
    made = Made(postgres.url)
    yield made
    await made.pool.aclose()
    for conn in made.conns:
        conn.pgconn.finish()


async def answers(conn: Connection) -> bool:
    return await (await conn.execute("SELECT 1")).fetchone() == (1,)


async def test_what_is_given_back_is_used_again(made: Made) -> None:
    for _ in range(3):
        async with made.pool.connection(5) as conn:
            assert await answers(conn)
    assert len(made.conns) == 1


async def test_who_cannot_have_one_is_told_at_once(made: Made) -> None:
    """How many there are, and what to do; and has the next that is given back."""
    taken = [await made.pool.getconn(5) for _ in range(3)]
    with pytest.raises(PoolBusy, match="all 3 connections were busy"):
        await made.pool.getconn(0.05)
    waiting = asyncio.create_task(made.pool.getconn(60))
    await asyncio.sleep(0)
    await made.pool.putconn(taken[0])
    assert await waiting is taken[0]
    for conn in taken:
        await made.pool.putconn(conn)


async def test_results_never_take_the_last(made: Made) -> None:
    """They may take long, and somebody's filter waits."""
    async with made.pool.connection(5, results=True), made.pool.connection(5, results=True):
        with pytest.raises(PoolBusy):
            async with made.pool.connection(0.05, results=True):
                pass
        async with made.pool.connection(5) as conn:
            assert await answers(conn)
    async with made.pool.connection(5, results=True) as conn:
        assert await answers(conn)


async def test_one_that_the_server_hung_up_on_is_not_handed_out(made: Made, postgres: PostgresWorld) -> None:
    async with made.pool.connection(5) as conn:
        pid = conn.info.backend_pid
    await postgres.sql(f"SELECT pg_terminate_backend({pid})")
    await eventually(lambda: _ended(conn))
    async with made.pool.connection(5) as conn:
        assert await answers(conn)
    assert (len(made.conns), made.open) == (2, 1)


def _ended(conn: Connection) -> bool:
    try:
        conn.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


async def test_one_that_was_left_in_a_transaction_is_closed(made: Made) -> None:
    """Nobody is to go on in somebody else's."""
    async with made.pool.connection(5) as conn:
        await conn.execute("BEGIN")
    assert conn.closed
    async with made.pool.connection(5) as conn:
        assert await answers(conn)


async def test_one_that_a_question_failed_on_is_not_used_again(made: Made) -> None:
    """It may be the connection's fault: what its role is given at connecting may have been another then."""
    with pytest.raises(psycopg.errors.UndefinedTable):
        async with made.pool.connection(5) as conn:
            await conn.execute("SELECT FROM nowhere")
    assert conn.closed
    with pytest.raises(ZeroDivisionError):
        async with made.pool.connection(5) as conn:
            raise ZeroDivisionError
    assert not conn.closed


async def test_what_lies_idle_is_closed_but_for_the_one_used_last(postgres: PostgresWorld) -> None:
    """On that one it is planned what streams ask."""
    made = Made(postgres.url, idle_s=0.1)
    taken = [await made.pool.getconn(5) for _ in range(3)]
    for conn in taken:
        await made.pool.putconn(conn)
    await eventually(lambda: made.open == 1)
    assert not taken[2].closed
    await made.pool.aclose()
    assert made.open == 0


async def test_at_its_end_everybody_is_told(made: Made) -> None:
    """Who waits for one, who is being connected, who uses one; nothing stays open."""
    in_use = [await made.pool.getconn(5) for _ in range(3)]
    reserved = await made.pool.reserve(8)
    waiting = asyncio.create_task(made.pool.getconn(60))
    asking = asyncio.create_task(in_use[0].execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.05)
    made.pool.abort()
    with pytest.raises(PoolOver):
        await waiting
    with pytest.raises(psycopg.OperationalError):
        await asking
    with pytest.raises(PoolOver):
        await made.pool.getconn(5)
    for conn in in_use:
        await made.pool.putconn(conn)
    made.pool.discard(reserved)
    assert made.open == 0


async def test_whoever_gives_up_waiting_takes_no_place(made: Made) -> None:
    taken = [await made.pool.getconn(5) for _ in range(3)]
    for _ in range(5):
        giving_up = asyncio.create_task(made.pool.getconn(60))
        await asyncio.sleep(0)
        giving_up.cancel()
        await asyncio.wait([giving_up])
    for conn in taken:
        await made.pool.putconn(conn)
    again = [await made.pool.getconn(5) for _ in range(3)]
    assert len(set(again)) == 3
    for conn in again:
        await made.pool.putconn(conn)
