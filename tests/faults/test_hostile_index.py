"""What somebody may write into the keys that everybody is looked for by: however much, it stays a bounded piece of work."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import snapshots
from ffcompletion.backends.valkey import ValkeyBackend, index, lanes, replies, scanning
from ffcompletion.backends.valkey import snapshots as valkey_snapshots
from ffcompletion.backends.valkey.index import TerminalIndex
from tests.worlds import FLOW, Done, PostgresWorld, ValkeyWorld, World, done, eventually, first, member

SOON = 0.1
INDEX = "ff:idx:{fp:%d}:lane:default:terminal"


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items the largest reply about a key of the index had; it goes on being counted."""
    seen = [0]
    begin = TerminalIndex.__init__

    def counted(
        self: TerminalIndex, execute: replies.Execute, given: Sequence[str], clocks: replies.Clocks | None = None
    ) -> None:
        async def counting(commands: Sequence[Sequence[str]]) -> Sequence[object]:
            answers = await execute(commands)
            seen[0] = max([seen[0], *(len(each) for each in answers if isinstance(each, (dict, set)))])
            return answers

        begin(self, counting, given, clocks)

    monkeypatch.setattr(TerminalIndex, "__init__", counted)
    return seen


async def _fill(valkey: ValkeyWorld, *head: str, words: list[str]) -> None:
    for at in range(0, len(words), 10_000):
        await valkey.command(*head, *words[at : at + 10_000])


async def test_a_set_of_lanes_that_somebody_fills(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that were known, and those that were named, are read on, and no more than so many of the others."""
    monkeypatch.setattr(lanes, "MOST_LANES", 10)
    monkeypatch.setattr(lanes, "_FEW", 5)
    monkeypatch.setattr(index, "_LANES_SCANNED", 40)
    await valkey.command("SADD", "ff:idx:lanes", "early", "zz")
    backend = ValkeyBackend(valkey.url, reconcile_interval=SOON, lanes=["named"])
    async with backend, ffc.subscribe(backend) as stream:
        await _fill(valkey, "SADD", "ff:idx:lanes", words=[f"lane-{number}" for number in range(100_000)])
        await eventually(lambda: "more than 10 lanes are registered" in caplog.text)
        for lane in ("named", "zz", "early"):
            await valkey.finish(item := done(flow_id=None), lane=lane, push=False)
            assert (await first(stream, 10)).execution_id == item.execution_id
        await valkey.command("DEL", "ff:idx:lanes")
        await valkey.command("SADD", "ff:idx:lanes", "late")
        await valkey.finish(item := done(flow_id=None), lane="late", push=False)
        assert (await first(stream, 10)).execution_id == item.execution_id
    assert sum("lanes are registered" in line for line in caplog.messages) == 1


async def test_a_set_of_lanes_that_somebody_replaces(valkey: ValkeyWorld) -> None:
    """By a string, or by nothing: what was registered once is read on."""
    await valkey.command("SADD", "ff:idx:lanes", "other", "default")
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON) as backend, ffc.subscribe(backend) as stream:
        for replaced in (["SET", "ff:idx:lanes", "x"], ["DEL", "ff:idx:lanes"]):
            await valkey.command("DEL", "ff:idx:lanes")
            await valkey.command(*replaced)
            for lane in ("other", "default"):
                await valkey.finish(item := done(flow_id=None), lane=lane, push=False)
                assert (await first(stream, 10)).execution_id == item.execution_id


async def test_more_in_one_millisecond_than_a_page_holds(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch, largest: list[int]
) -> None:
    """In two keys, with what is genuine first, last and in between; to who is open, and to who has overflowed."""
    monkeypatch.setattr(index, "_PER_KEY", 50)
    monkeypatch.setattr(index, "_AT_ONCE", 600)
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON, buffer_size=2) as backend:
        async with ffc.subscribe(backend) as stream, ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered:
            now = await valkey.command("TIME")
            assert isinstance(now, list)
            at = str(int(now[0]) * 1000 + 900)
            genuine = [f"{{fp:3}}:{uuid.UUID(int=number)}" for number in (1, 999, 1_001, 1_999, 2**127)]
            for id_ in genuine:
                await valkey.command(
                    "HSET", f"ff:exec:{{fp:3}}:{id_}:core", "lifecycle_phase", "terminal", "terminal_outcome", "success",
                    "flow_id", "", "namespace", "a", "replay_count", "0",
                )  # fmt: skip
            for partition in (3, 4):
                ids = [f"{{fp:{partition}}}:{uuid.UUID(int=number)}" for number in range(2_000)]
                words = [word for id_ in ids for word in (at, id_)]
                await _fill(valkey, "ZADD", INDEX % partition, words=words)
            await valkey.command("ZADD", INDEX % 3, at, genuine[-1])
            later = done(namespace="a", flow_id=None)
            await valkey.finish(later, push=False, skew_ms=2_000)
            for each in (stream, filtered):
                missing = {*genuine, later.execution_id}
                async with asyncio.timeout(30):
                    while missing:
                        missing.discard((await anext(each)).execution_id)
            assert filtered.stats().overflows
    assert largest[0] <= 600


async def test_what_lies_in_the_future_keeps_nobody_behind(valkey: ValkeyWorld) -> None:
    """However much of it there is: who has overflowed catches up and is live again, and a pass is soon done."""
    options = {"reconcile_interval": SOON, "buffer_size": 20}
    async with valkey.backend(**options) as backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        at = str((int(time.time()) + 3_600) * 1_000)
        for partition in range(20):
            words = [word for _ in range(1_000) for word in (at, f"{{fp:{partition}}}:{uuid.uuid4()}")]
            await valkey.command("ZADD", INDEX % partition, *words)
        for _ in range(40):
            await valkey.finish(done(namespace="a"))
        await eventually(lambda: stream.stats().overflows)
        item = done(namespace="a", flow_id=None)

        async def read_on() -> None:
            while (await anext(stream)).execution_id != item.execution_id:
                pass

        reading = asyncio.create_task(read_on())
        await eventually(lambda: not stream.stats().catching_up)
        assert backend.stats().malformed == 0
        await valkey.finish(item, push=False)
        await asyncio.wait_for(reading, 20)


async def test_a_flow_of_more_members_than_anybody_asks_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are read, a page at a time; with more of them the flow is refused, and nobody holds them all."""
    if not isinstance(world, (PostgresWorld, ValkeyWorld)):
        pytest.skip("the servers")
    monkeypatch.setattr(snapshots, "MOST_MEMBERS", 700)
    monkeypatch.setattr(valkey_snapshots, "MOST_MEMBERS", 700)
    monkeypatch.setattr(scanning, "_SCANNED", "10")
    items = [member(FLOW) for _ in range(705)]
    ids = [item.execution_id for item in items]
    key = f"ff:flow:{ids[0].partition('}')[0]}}}:{FLOW}:members"

    async def join(*items: Done) -> None:
        if isinstance(world, ValkeyWorld):
            await world.command("SADD", key, *(item.execution_id for item in items))
        else:
            await world.joins(FLOW, *items)

    async with world.backend() as backend:
        await join(*items[:700])
        assert sorted(await backend.flow_members(FLOW)) == sorted(ids[:700])
        await join(*items[700:])
        with pytest.raises(ffc.Unavailable, match="more than 700 members"):
            await backend.flow_members(FLOW)
        with pytest.raises(ffc.Unavailable, match="more than 700 members"):
            await ffc.wait_for_flow(backend, FLOW, timeout=5)
