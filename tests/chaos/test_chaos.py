"""The chaos harness, briefly; and a consumer that is killed and comes back to its cursor."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
from pathlib import Path

import pytest

from tests import TESTS
from tests.chaos.postgres import run_chaos
from tests.chaos.valkey import run_valkey_chaos
from tests.worlds import PostgresWorld, done, eventually

CONSUMER = TESTS / "programs" / "remembers.py"


async def test_a_short_chaos_loses_and_repeats_nothing() -> None:
    """Every stream's account is sound: nothing lost, nothing twice that was not resumed, nothing of others."""
    sound, report = await asyncio.wait_for(run_chaos(18, 12.0, seed=3), 110)
    assert sound, report


async def test_a_short_chaos_on_valkey_loses_nothing() -> None:
    """What push alone loses, reconciling delivers, whatever is hurt."""
    sound, report = await asyncio.wait_for(run_valkey_chaos(8.0, seed=3, reconcile_s=1.0), 110)
    assert sound, report
    alone = re.search(r"near, push alone .* lost +(\d+)", report)
    assert alone, report
    assert int(alone[1]) > 0, f"nothing was at stake: {report}"


# The long profile: FFCOMPLETION_TEST_KILLS=50.
KILLS = int(os.environ.get("FFCOMPLETION_TEST_KILLS", "3"))


@pytest.mark.timeout(120 + 5 * KILLS)
@pytest.mark.parametrize("mode", [[], ["1"], ["8"]], ids=["by_hand", "checkpointed", "checkpointed_8_at_once"])
async def test_a_killed_consumer_has_seen_every_row(postgres: PostgresWorld, tmp_path: Path, mode: list[str]) -> None:
    """SIGKILL at random, resumed from its stored cursor each time: what it wrote down covers every row."""
    dice = random.Random(5)
    sent: list[str] = []
    ending = asyncio.Event()

    async def write() -> None:
        while not ending.is_set():
            items = [done() for _ in range(5)]
            await postgres.announce(*items)
            sent.extend(item.execution_id for item in items)
            await asyncio.sleep(0.01)

    writing = asyncio.ensure_future(write())

    async def consumer() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(sys.executable, str(CONSUMER), postgres.url, str(tmp_path), *mode)

    seen_file = tmp_path / "seen"

    def written() -> int:
        return seen_file.stat().st_size if seen_file.exists() else 0

    for _ in range(KILLS):
        process = await consumer()
        before = written()
        await eventually(lambda before=before: written() > before, 60)  # it has begun, however slow the machine is
        await asyncio.sleep(0.4 * dice.random())
        process.send_signal(signal.SIGKILL)
        await process.wait()
    ending.set()
    await writing
    process = await consumer()
    async with asyncio.timeout(60):
        while not set(sent) <= set(seen_file.read_text().split("\n")):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    await process.wait()
