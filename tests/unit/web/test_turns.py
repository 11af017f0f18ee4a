"""Turns: those of one key wait for each other, and for nobody else."""

from __future__ import annotations

import asyncio

from ffcompletion.web.turns import Pace, Share, Turns


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


async def test_a_crowd_s_steps_are_spread_over_many_turns_of_the_loop() -> None:
    """In the order of asking; whoever is alone makes his at once, and nothing is kept."""
    pace, made = Pace(2), list[str]()
    crowd, alone = Share("crowd", Turns(1), pace), Share("alone", Turns(1), pace)

    async def one(share: Share, name: str) -> None:
        await share.step()
        made.append(name)

    tasks = [asyncio.create_task(one(crowd, f"c{number}")) for number in range(6)]
    tasks.append(asyncio.create_task(one(alone, "a")))
    await asyncio.sleep(0)
    assert (made, len(pace)) == (["c0", "c1", "a"], 2)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert made == ["c0", "c1", "a", "c3", "c4", "c5"]
    async with alone.turn():
        while len(pace):
            await asyncio.sleep(0)


def test_a_loop_that_ended_in_between_holds_up_no_other() -> None:
    """What it had planned is never done."""
    pace = Pace(1)

    async def crowd(goes_on: bool) -> None:
        tasks = [asyncio.ensure_future(pace.step("key")) for _ in range(3)]
        await (asyncio.wait(tasks) if goes_on else asyncio.sleep(0))

    first = asyncio.new_event_loop()
    first.run_until_complete(crowd(goes_on=False))
    asyncio.run(asyncio.wait_for(crowd(goes_on=True), 10))
    # It goes on after all.
    first.run_until_complete(asyncio.sleep(0))
    for task in asyncio.all_tasks(first):
        task.cancel()
    first.run_until_complete(asyncio.sleep(0))
    first.close()
