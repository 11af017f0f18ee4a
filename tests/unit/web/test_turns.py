"""Turns: those of one key wait for each other, and for nobody else."""

from __future__ import annotations

import asyncio

from ffcompletion.web.turns import Turns


async def test_so_many_of_a_key_and_others_beside_them() -> None:
    turns, inside = Turns(2), list[str]()
    leave = asyncio.Event()

    async def one(key: str) -> None:
        async with turns.turn(key):
            inside.append(key)
            await leave.wait()

    tasks = [asyncio.create_task(one(key)) for key in ("a", "a", "a", "b")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (inside, len(turns)) == (["a", "a", "b"], 2)
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (inside, len(turns)) == (["a", "a", "b"], 0)
