"""Clearing away what has finished."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import ffcompletion as ffc
from ffcompletion.backends.valkey import keys
from ffcompletion.producers import completion_call, install, prune, submission_call
from ffcompletion.producers.calls import forgetting_call
from tests.adapters.produced import all_keys
from tests.worlds import ValkeyWorld


async def test_what_has_finished_is_kept_for_a_while_and_no_longer(producing: ValkeyWorld) -> None:
    """Keys expire, the index is cleared by later calls, and none of it is for what still runs."""
    done, running = ffc.ExecutionId.new(), ffc.ExecutionId.new()
    await producing.command(*completion_call(done, "success", tags={"k": "v"}, result="r"))
    await producing.command(*submission_call(running))
    for name in (keys.core(done), keys.tags(done), keys.result(done)):
        left = await producing.command("PTTL", name)
        assert isinstance(left, int)
        assert 86_000_000 < left <= 86_400_000
    assert await producing.command("PTTL", keys.core(running)) == -1
    await producing.command(*submission_call(done))
    assert await producing.command("PTTL", keys.core(done)) == -1
    # A short retention: what is older goes with the next calls.
    await install(producing.url, retention=timedelta(milliseconds=50))
    ids = [f"{{fp:7}}:{ffc.ExecutionId.new().uuid}" for _ in range(25)]
    for id_ in ids:
        await producing.command(*completion_call(id_, "success"))
    await asyncio.sleep(0.2)
    last = [f"{{fp:7}}:{ffc.ExecutionId.new().uuid}" for _ in range(3)]
    for id_ in last:
        await producing.command(*completion_call(id_, "success"))
    kept: Any = await producing.command("ZRANGE", keys.terminal(7, "default"), "0", "-1")
    assert not {id_.encode() for id_ in ids} & set(kept)
    assert await producing.command("SCARD", "ff:idx:{fp:7}:all_executions") == len(kept)
    await install(producing.url, retention=timedelta(0))
    await producing.command(*completion_call(ids[0], "success"))
    assert await producing.command("PTTL", keys.core(ffc.ExecutionId(ids[0]))) == -1


async def test_pruning_takes_the_old_and_leaves_the_rest(producing: ValkeyWorld) -> None:
    """Of the lanes named; unfinished ones where an age is given for them."""
    old = [ffc.ExecutionId.new() for _ in range(5)]
    elsewhere, running = ffc.ExecutionId.new(), ffc.ExecutionId.new()
    for id_ in old:
        await producing.command(*completion_call(id_, "success", tags={"k": "v"}, result="r"))
    await producing.command(*completion_call(elsewhere, "success", lane="mail"))
    await producing.command(*submission_call(running))
    assert await prune(producing.url, timedelta(hours=1), unfinished=timedelta(hours=1)) == 0
    await asyncio.sleep(1.1)  # the server's time is asked for in whole seconds
    assert await prune(producing.url, timedelta(0)) == 5
    async with producing.backend() as backend:
        found = [await backend.describe_execution(id_) for id_ in (*old, elsewhere, running)]
        assert [each is not None for each in found] == [False] * 5 + [True, True]
    assert await prune(producing.url, timedelta(0), unfinished=timedelta(0), lanes=["mail", "default"]) == 2
    assert await all_keys(producing) == {}
    # What runs again meanwhile stays.
    await producing.command(*completion_call(running, "success"))
    await producing.command(*submission_call(running))
    assert await producing.command(*forgetting_call(running, 1 << 50)) == 0
