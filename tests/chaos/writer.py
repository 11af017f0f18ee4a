"""Sixteen writers in a process of their own: some slow, some rolled back, some to a savepoint; killed, they go on."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from typing import Any

import psycopg

from tests.chaos.poison import Poisoned, poisoned_id, poisons

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
ROW = (
    "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)"
    " VALUES (%s, %s, %s, 'success', %s, 1)"
)
# Bytes as they are, where the database takes any.
POISONED_ROW = ROW.replace("'success', %s, 1", "%s, {text}, %s")
POISONED_CORE = (
    "INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, raw_fields)"
    " VALUES (%s, %s, 'terminal', {text}::jsonb)"
)
CORE = "INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, raw_fields) VALUES (%s, %s, 'terminal', %s)"


def _text(query: str, value: str | bytes | None) -> bytes:
    text = "convert_from(%s::bytea, 'SQL_ASCII')" if isinstance(value, bytes) else "%s"
    return query.format(text=text).encode()


async def _poison(conn: psycopg.AsyncConnection[Any], dice: random.Random, kinds: tuple[Poisoned, ...]) -> None:
    kind = dice.randrange(len(kinds))
    poison, bare = kinds[kind], poisoned_id(dice, kind)
    partition = dice.randrange(256) if poison.partition is None else poison.partition
    if poison.record is not None:
        await conn.execute(_text(POISONED_CORE, poison.record), (partition, bare, poison.record))
    values = (partition, bare, FLOW, poison.outcome, poison.namespace, poison.occurred_at_ms)
    await conn.execute(_text(POISONED_ROW, poison.namespace), values)


async def _transaction(
    conn: psycopg.AsyncConnection[Any], dice: random.Random, kinds: tuple[Poisoned, ...], poison: float
) -> None:
    async with conn.transaction():
        for _ in range(dice.randint(1, 20)):
            partition, bare, tenant = dice.randrange(256), str(uuid.UUID(int=dice.getrandbits(128))), dice.choice("abc")
            if dice.random() < poison:
                await _poison(conn, dice, kinds)
            if tenant == "c" or dice.random() < 0.2:
                # The row does not say whose it is: the record alone does. All of tenant c's are so, and bear a tag.
                fields = {"namespace": tenant, **({"tags": {"shard": dice.choice("01")}} if tenant == "c" else {})}
                await conn.execute(CORE, (partition, bare, json.dumps(fields)))
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


async def _write(url: str, seed: int, seconds: float, pause_s: float, poison: float) -> None:
    dice = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as conn:
                kinds = poisons(any_bytes=conn.info.parameter_status("server_encoding") == "SQL_ASCII")
                while time.monotonic() < end:
                    await _transaction(conn, dice, kinds, poison)
                    await asyncio.sleep(dice.random() * 2 * pause_s)
        except (psycopg.Error, psycopg.Rollback, OSError):
            # A Rollback comes through where the connection was gone before it could be done.
            await asyncio.sleep(0.1)


async def main(url: str, seed: int, seconds: float, writers: int, pause_s: float, poison: float) -> None:
    await asyncio.gather(*(_write(url, seed * 1000 + n, seconds, pause_s, poison) for n in range(writers)))


if __name__ == "__main__":
    _, url, seed, seconds, writers, pause_s, poison = sys.argv
    asyncio.run(main(url, int(seed), float(seconds), int(writers), float(pause_s), float(poison)))
