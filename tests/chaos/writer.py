"""Sixteen writers in a process of their own: some slow, some rolled back, some to a savepoint; killed, they go on."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from typing import Any

import psycopg

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
ROW = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)"
    " VALUES (%s, %s, %s, 'success', %s, 1)"
)
CORE = "INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, raw_fields) VALUES (%s, %s, 'terminal', %s)"


async def _transaction(conn: psycopg.AsyncConnection[Any], dice: random.Random) -> None:
    async with conn.transaction():
        for _ in range(dice.randint(1, 20)):
            partition, bare, tenant = dice.randrange(256), str(uuid.UUID(int=dice.getrandbits(128))), dice.choice("ab")
            if dice.random() < 0.2:
                # The row does not say whose it is: the core does.
                await conn.execute(CORE, (partition, bare, f'{{"namespace": "{tenant}"}}'))
                await conn.execute(ROW, (partition, bare, FLOW, None))
            else:
                await conn.execute(ROW, (partition, bare, FLOW, tenant))
        if dice.random() < 0.1:
            async with conn.transaction() as savepoint:
                await conn.execute(ROW, (7, str(uuid.UUID(int=dice.getrandbits(128))), FLOW, "a"))
                raise psycopg.Rollback(savepoint)
        if dice.random() < 0.05:
            await asyncio.sleep(dice.random() * 0.5)
        if dice.random() < 0.05:
            raise psycopg.Rollback


async def _write(url: str, seed: int, seconds: float, pause_s: float) -> None:
    dice = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as conn:
                while time.monotonic() < end:
                    await _transaction(conn, dice)
                    await asyncio.sleep(dice.random() * 2 * pause_s)
        except (psycopg.Error, psycopg.Rollback, OSError):
            # A Rollback comes through where the connection was gone before it could be done.
            await asyncio.sleep(0.1)


async def main(url: str, seed: int, seconds: float, writers: int, pause_s: float) -> None:
    await asyncio.gather(*(_write(url, seed * 1000 + n, seconds, pause_s) for n in range(writers)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
