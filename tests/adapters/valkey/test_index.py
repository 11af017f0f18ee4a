"""The terminal index, whatever has been written to it."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncGenerator, Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey import index as indexing
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.reconciliation import Candidate, Entry
from ffcompletion.backends.valkey.replies import TooSlowError, server_ms
from tests.adapters.valkey.asked import Asked, asking
from tests.worlds import ValkeyWorld, done, first, hash_tag

KEY = "ff:idx:{fp:%d}:lane:default:terminal"
EVER = 1 << 60


@pytest.fixture
async def asked(valkey: ValkeyWorld) -> AsyncGenerator[Asked]:
    """Of a server with four partitions."""
    await valkey.command("HSET", "ff:config:partitions", "num_flow_partitions", "4")
    async with asking(valkey.url) as made:
        yield made


async def looking(asked: Asked) -> TerminalIndex:
    index = TerminalIndex(asked.execute, [])
    await index.look()
    return index


async def fill(valkey: ValkeyWorld, partition: int, scores: Sequence[int]) -> list[Entry]:
    """An entry of this key for each score."""
    entries = [(f"{{fp:{partition}}}:{uuid.uuid4()}", score) for score in scores]
    words = [word for name, score in entries for word in (str(score), name)]
    if words:
        await valkey.command("ZADD", KEY % partition, *words)
    return entries


async def read_all(index: TerminalIndex, wanted: int = 10_000) -> tuple[list[Entry], int]:
    """Page after page, each from where the last one says: the entries, and how many could not be read."""
    found: list[Entry] = []
    page = await index.page(0, EVER, wanted)
    unreadable = page.unreadable
    while not page.complete:
        found += page.entries
        page = await index.page(page.upto + 1, EVER, wanted, page.skip)
        unreadable += page.unreadable
    return [*found, *page.entries], unreadable


SOME = random.Random(3)


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param([[SOME.randrange(300) for _ in range(100)] for _ in range(4)], id="evenly"),
        pytest.param([[SOME.randrange(300) for _ in range(size)] for size in (300, 5, 0, 1)], id="one key holds most"),
        pytest.param([[7] * 150, [6] + [7] * 90 + [8], [7], []], id="at one millisecond"),
        pytest.param([[0, *[5] * 100, 9], [5] * 30, [4, 6], [9]], id="at one millisecond, and others around it"),
    ],
)
@pytest.mark.parametrize("wanted", [1, 30, 10_000])
async def test_pages_put_together_are_the_index(
    valkey: ValkeyWorld, asked: Asked, monkeypatch: pytest.MonkeyPatch, scores: list[list[int]], wanted: int
) -> None:
    """Each entry once, and what is none, however small the pages are, and however it lies."""
    monkeypatch.setattr(indexing, "_PER_KEY", 20)
    monkeypatch.setattr(indexing, "_AT_ONCE", 50)
    written = [entry for partition in range(4) for entry in await fill(valkey, partition, scores[partition])]
    for number in range(100):
        await valkey.command("ZADD", KEY % (number % 2), str(number // 10), b"\xff%d" % number)
    entries, unreadable = await read_all(await looking(asked), wanted)
    assert sorted(entries) == sorted(written)
    assert unreadable == 100
    assert all(int(command[-2]) <= 50 for command in asked.named("ZRANGE"))


async def test_a_page_up_to_a_time_is_the_end_once_that_lies_ahead(valkey: ValkeyWorld, asked: Asked) -> None:
    """Up to one that the server's clock has passed there may be more."""
    index = await looking(asked)
    now_ms = (await index.look()).server_ms
    await fill(valkey, 1, [now_ms - 60_000])
    before = await index.page(0, now_ms - 30_000)
    assert (len(before.entries), before.complete, before.upto) == (1, False, now_ms - 30_000)
    after = await index.page(0, now_ms + 30_000)
    assert (len(after.entries), after.complete) == (1, True)
    assert after.upto > now_ms + 30_000


async def test_a_page_is_of_the_time_before_its_first_key(
    valkey: ValkeyWorld, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written while the others are read may be in one and not in another."""
    monkeypatch.setattr(indexing, "_KEYS_AT_ONCE", 1)
    times: list[int] = []

    async def slowly(commands: Sequence[Sequence[str]]) -> Sequence[object]:
        replies = await asked.execute(commands)
        times.append(server_ms(await valkey.command("TIME")))
        while server_ms(await valkey.command("TIME")) == times[-1]:
            pass
        return replies

    index = TerminalIndex(slowly, [])
    await index.look()
    times.clear()
    page = await index.page(0, EVER)
    assert len(times) == 4
    assert 0 < page.asked_ms <= times[0] < times[-1]


async def test_of_a_key_with_large_entries_fewer_are_asked_for(valkey: ValkeyWorld, asked: Asked) -> None:
    """They are no ids and not kept; what lies between them is found, once; and when they are gone, it is as others are."""
    entries = await fill(valkey, 2, range(0, 400, 10))
    large = [word for score in range(100, 400) for word in (str(score), b"%d" % score + b"x" * 50_000)]
    await valkey.command("ZADD", KEY % 2, *large)
    index = await looking(asked)
    assert await read_all(index) == (entries, 300)
    counts = [int(command[-2]) for command in asked.named("ZRANGE") if command[1] == KEY % 2]
    # But for the first, a reply of theirs has some MB at the most.
    assert max(counts[1:]) * 50_000 < 4 << 20
    await valkey.command("DEL", KEY % 2)
    for _ in range(8):
        asked.named()
        await index.page(0, EVER)
    assert len({command[-2] for command in asked.named("ZRANGE")}) == 1


async def test_of_a_key_that_gets_no_answer_fewer_are_asked_for(valkey: ValkeyWorld, asked: Asked) -> None:
    """Down to one; the others are asked as ever. Where even that is too much, or it is no key at all, the question fails."""
    most = 1

    def refuse(commands: Sequence[Sequence[str]]) -> None:
        for command in commands:
            if command[:2] == ("ZRANGE", KEY % 0) and int(command[-2]) > most:
                raise TooSlowError(command)

    entries = [*await fill(valkey, 0, range(20)), *await fill(valkey, 1, range(20, 25))]
    asked.before = refuse
    index = await looking(asked)
    found, _ = await read_all(index)
    assert sorted(found) == sorted(entries)
    most = 0
    with pytest.raises(TooSlowError):
        await index.page(0, EVER)

    def refuse_all(commands: Sequence[Sequence[str]]) -> None:
        raise TooSlowError(commands[0])

    asked.before = refuse_all
    with pytest.raises(TooSlowError):
        await index.page(0, EVER)


async def test_an_entry_is_a_completion_if_its_record_says_so(valkey: ValkeyWorld, asked: Asked) -> None:
    """Oldest first. One that runs again has none now; one that was announced before is news only if it was replayed."""
    old, new, again, announced, replayed = (done(flow_id=None) for _ in range(5))
    skipped = done(flow_id=None, outcome="skipped")
    for item in (new, old, again, announced, replayed, skipped):
        await valkey.finish(item)
    await valkey.replay(again)
    await valkey.replay(replayed)
    await valkey.finish(replayed)
    odd, gone = done(), done()
    await valkey.command("SET", f"ff:exec:{hash_tag(odd.execution_id)}:{odd.execution_id}:core", "x")
    index = await looking(asked)
    payloads, unreadable = await index.payloads(
        [
            Candidate(new.execution_id, 9),
            Candidate(replayed.execution_id, 7, doubtful=True),
            Candidate(announced.execution_id, 6, doubtful=True),
            Candidate(again.execution_id, 5),
            Candidate(old.execution_id, 3, doubtful_if_skipped=True),
            Candidate(skipped.execution_id, 4, doubtful_if_skipped=True),
            Candidate(odd.execution_id, 2),
            Candidate(gone.execution_id, 1),
            Candidate("nonsense", 1),
        ]
    )
    assert [(item.execution_id, item.produced_at_ms) for item in payloads] == [
        (old.execution_id, 3), (replayed.execution_id, 7), (new.execution_id, 9),
    ]  # fmt: skip
    assert unreadable == 3


async def test_a_score_that_is_no_time_hides_nothing(valkey: ValkeyWorld) -> None:
    """Of one key of the index: it is never read, and the others are reconciled as ever."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0.2) as backend, ffc.subscribe(backend) as stream:
        for number in range(12):
            score, member = ("+inf", "1e300", "-inf", "-5")[number % 4], done().execution_id
            await valkey.command("ZADD", "ff:idx:{fp:7}:lane:default:terminal", score, member)
        for _ in range(2):
            item = done(flow_id=None)
            await valkey.finish(item)
            assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().malformed == 0


async def test_three_thousand_lanes(valkey: ValkeyWorld) -> None:
    """Subscribing does not wait for a look at 768,000 keys, and no pipeline holds them all."""
    await valkey.command("SADD", "ff:idx:lanes", *(f"lane-{number}" for number in range(3000)))
    async with valkey.backend() as backend, ffc.subscribe(backend) as stream:
        item = done()
        await valkey.publish(item)
        assert (await first(stream)).execution_id == item.execution_id
