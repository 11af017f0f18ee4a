"""Event loops that are closed by hand, with everything open, beside others of the same process."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE

import pytest

from tests import ROOT
from tests.worlds import FLOW, ValkeyWorld
from tests.worlds.forking import Interpreter

MANY = """
for i = 1, tonumber(ARGV[1]) do
    local id = string.format('{fp:7}:550e8400-e29b-41d4-a716-%012d', i)
    redis.call('PUBLISH', 'ff:dag:completions', cjson.encode({execution_id = id, flow_id = ARGV[2], outcome = 'success'}))
end
return 1
"""


@pytest.mark.timeout(120)
async def test_a_loop_that_was_closed_hurts_no_other(valkey: ValkeyWorld) -> None:
    """Beside a flood. The next is told all the time and connects to nothing anew; glide's way of passing on would end the process."""
    program = await asyncio.create_subprocess_exec(
        *Interpreter(), str(ROOT / "tests" / "programs" / "closed_loops.py"), valkey.url, stdout=PIPE, stderr=PIPE
    )
    ending = asyncio.ensure_future(program.communicate())
    while not ending.done():
        await valkey.command("EVAL", MANY, "0", "200", FLOW)
        await asyncio.sleep(0.05)
    out, err = await ending
    assert program.returncode == 0, err.decode()[-2_000:]
    assert out.decode().splitlines() == ["True 0 0"] * 6
