"""The chaos harness, briefly; and a consumer that is killed and comes back to its cursor."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import TESTS
from tests.chaos.defects import seeded
from tests.chaos.ledger import Ledger
from tests.chaos.poison import Held
from tests.chaos.postgres import run_chaos
from tests.chaos.valkey import run_valkey_chaos
from tests.worlds import PostgresWorld, done, eventually
from tests.worlds.templates import FEW_PARTITIONS

CONSUMER = TESTS / "programs" / "remembers.py"


async def test_a_short_chaos_loses_and_repeats_nothing() -> None:
    """Every stream's account is sound: nothing lost, nothing twice that was not resumed, nothing of others.

    Records are poisoned, and a hostile filter is beside the others.
    """
    sound, report = await asyncio.wait_for(run_chaos(18, 12.0, seed=3, poison=0.01, partitions=FEW_PARTITIONS), 110)
    assert sound, report
    assert _poisoned(report, "near ") > 5, report


async def test_a_short_chaos_on_valkey_loses_nothing() -> None:
    """What push alone loses, reconciling delivers, whatever is hurt."""
    sound, report = await asyncio.wait_for(run_valkey_chaos(8.0, seed=3, reconcile_s=1.0, poison=0.01), 110)
    assert sound, report
    assert _poisoned(report, "near ") > 20, report
    alone = re.search(r"near, push alone .* lost +(\d+)", report)
    assert alone, report
    assert int(alone[1]) > 0, f"nothing was at stake: {report}"


async def test_a_run_notices_a_library_that_fails_open() -> None:
    """Seeded with a defect of a kind that it has had; with so much poison that a slow machine meets it as well."""
    with seeded("open"):
        sound, report = await asyncio.wait_for(run_valkey_chaos(1.0, seed=3, reconcile_s=1.0, poison=0.5), 60)
    assert not sound
    assert re.search(r"shard 0 .* lost +0  strangers +[1-9]\d*  BROKEN", report), report


def test_an_account_is_sound_only_with_everything_once_and_nothing_of_others() -> None:
    """Tenant and tag, what may be missing, and what may not be there."""
    everything = [Held("1", "a"), Held("2", "a", "0"), Held("3", "b"), Held("4", "a", certain=False), Held("5", None)]

    def account(*ids: str, **rules: Any) -> Ledger:
        made = Ledger("test", "a", **rules)
        for id_ in ids:
            made.add(id_)
        made.settle(everything)
        made.count_strangers(lambda ledger, id_: True)
        return made

    assert account("1", "2").sound
    assert account("1", "2", "4").sound
    assert account("2").lost == 1
    assert account("1", "2", "3", "5").strangers == 2
    assert account("1", "1", "2").repeated == 1
    assert account("1", "1", "2", may_repeat=True).sound
    assert not account("1", "2", "3", may_repeat=True, may_lose=True).sound
    assert account("1", "2", limit=lambda: 1).strangers == 1


def _poisoned(report: str, account: str) -> int:
    found = re.search(rf"^{account}.* poisoned +(\d+)", report, re.MULTILINE)
    assert found, report
    return int(found[1])


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
