"""Streams that overflowed, and get what they missed from the index."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, filtering
from ffcompletion.delivery.stream import Subscription
from tests.adapters.valkey.test_reconciler import NEVER, _reconciler, _run
from tests.worlds import Done, ValkeyWorld, done, eventually, first, some


async def _finish_many(valkey: ValkeyWorld, items: list[Done]) -> None:
    for start in range(0, len(items), 50):
        await asyncio.gather(*(valkey.finish(item) for item in items[start : start + 50]))


async def test_a_slow_consumer_gets_what_overflowed(valkey: ValkeyWorld) -> None:
    """Its buffer holds a hundred of three thousand; another stream has them all at full speed; nothing is lost."""
    items = [done(namespace="a" if number % 3 else "b") for number in range(3000)]
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER, buffer_size=100) as backend:
        slow = await backend.subscribe_completions()
        tenant = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        quick = await backend.subscribe_completions()
        reading = asyncio.ensure_future(some(quick, 3000, 60))
        await _finish_many(valkey, items)
        assert len(await reading) == 3000
        await eventually(lambda: slow.stats().overflows >= 1)
        assert slow.stats().buffered <= 100
        for stream, expected in ((slow, items), (tenant, [item for item in items if item.namespace == "a"])):
            got = [p.execution_id for p in await some(stream, len(expected), 60)]
            assert set(got) == {item.execution_id for item in expected}
            await eventually(lambda stream=stream: not stream.stats().catching_up)
            assert stream.stats().lost == 0
        # And it is live again.
        last = done(namespace="a")
        await valkey.finish(last)
        for stream in (slow, tenant):
            while (await first(stream)).execution_id != last.execution_id:
                pass
            await stream.aclose()
        await quick.aclose()


async def test_a_right_withdrawn_while_a_stream_is_behind(
    valkey: ValkeyWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no room when that is noticed; what it is owed counts as lost, and it is live again."""
    rules = ["on", ">pw", "allkeys", "allchannels", "allcommands"]
    await valkey.command("ACL", "SETUSER", "shrinking", *rules)
    try:
        backend = ValkeyBackend(valkey.url, username="shrinking", password="pw", reconcile_interval=0.1, buffer_size=10)
        async with backend, await backend.subscribe_completions() as stream:
            await _finish_many(valkey, [done() for _ in range(25)])
            await eventually(lambda: stream.stats().catching_up)
            await valkey.command("ACL", "SETUSER", "shrinking", "-zrange")
            await eventually(lambda: "reconciling is off" in caplog.text)
            await eventually(lambda: _read_some(stream))
            assert stream.stats().lost > 0
            item = done()
            await valkey.finish(item)
            while (await first(stream)).execution_id != item.execution_id:
                pass
    finally:
        await valkey.command("ACL", "DELUSER", "shrinking")


async def _read_some(stream: Subscription) -> bool:
    while stream.stats().buffered:
        await first(stream)
    return not stream.stats().catching_up


async def test_what_waits_to_be_decided_while_a_pass_ends_is_owed_as_well(valkey: ValkeyWorld) -> None:
    """The keys answer the index, and not the filter; then all the answers come at once and overflow the stream."""
    items = [done(namespace="a") for _ in range(300)]
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER, buffer_size=40, clock_skew=0) as backend:
        stream = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        plain = await backend.subscribe_completions()
        answers, reconciler = _held(backend), _reconciler(backend)
        for half in (items[:150], items[150:]):
            await _finish_many(valkey, half)
            await eventually(lambda half=half: backend.stats().received >= 150 * (items.index(half[0]) // 150 + 1))
            # A pass that begins after them, and ends while they still wait.
            settled = reconciler.reconciliation.settled_ms
            await asyncio.sleep(0.05)
            reconciler.request_pass()
            await eventually(lambda settled=settled: reconciler.reconciliation.settled_ms > settled)
        answers.set()
        await eventually(lambda: stream.stats().overflows > 0)
        wanted = {item.execution_id for item in items}
        got: set[str] = set()
        async with asyncio.timeout(10):
            while got != wanted:
                got.add((await anext(aiter(stream))).execution_id)
        await plain.aclose()
        await stream.aclose()


async def test_what_comes_while_a_stream_rejoins_is_read_whole(valkey: ValkeyWorld) -> None:
    """Between the page that shows that little is owed, and the one that is read as it rejoins: more than fits a page."""
    early, late = [done() for _ in range(60)], [_in_partition(7) for _ in range(40)]
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER, buffer_size=40, clock_skew=0) as backend:
        stream = await backend.subscribe_completions()
        reconciler = _reconciler(backend)
        index, real, burst = reconciler._index, reconciler._index.page, list(late)

        async def page(since_ms: int, until_ms: int, wanted: int = 1 << 30, skip: Mapping[str, int] = {}) -> Any:
            found = await real(since_ms, until_ms, wanted, skip)
            source = next(iter(reconciler._recovery._sources))
            assert source.backlog is not None
            if burst and found.complete and len(source.backlog.pending(found.entries)) <= source.room.items // 2:
                await _finish_many(valkey, burst)
                burst.clear()
                await eventually(lambda: backend.stats().received == 100)
            return found

        index.page = page  # type: ignore[method-assign]  # put in between
        await _finish_many(valkey, early)
        await eventually(lambda: stream.stats().overflows > 0)
        wanted = {item.execution_id for item in (*early, *late)}
        got: set[str] = set()
        async with asyncio.timeout(10):
            while got != wanted:
                got.add((await anext(stream)).execution_id)
        await stream.aclose()


def _held(backend: ValkeyBackend) -> asyncio.Event:
    """The server does not answer what filters ask until this is set."""
    lookups, answers = _run(backend)._filtering.questions._lookups, asyncio.Event()
    real = lookups._execute

    async def held(commands: Any) -> Any:
        await answers.wait()
        return await real(commands)

    lookups._execute = held
    return answers


async def _asked(valkey: ValkeyWorld, command: str) -> int:
    """How often the server was, by anybody."""
    told = await valkey.command("INFO", "commandstats")
    text = told.decode() if isinstance(told, bytes) else str(told)
    return int(found[1]) if (found := re.search(rf"cmdstat_{command}:calls=(\d+)", text)) else 0


async def test_streams_that_fell_behind_together_read_what_they_missed_together(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's flood is more than may wait to be decided: it is read once from the index, however many tenants wait."""
    monkeypatch.setattr(filtering, "_WAITING", 200)
    monkeypatch.setattr(filtering, "_BATCH", 20)
    monkeypatch.setattr(filtering, "_HURRIED", 40)
    flood = [done(namespace="evil") for _ in range(3_000)]
    own = [done(namespace=f"tenant-{number}") for number in range(10)]
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER) as backend:
        streams = [await backend.subscribe_completions_filtered(ffc.ScannerFilter(item.namespace)) for item in own]
        answers = _held(backend)
        names = ("hget", "hmget", "zrange")
        before = [await _asked(valkey, command) for command in names]
        await _finish_many(valkey, flood)
        await eventually(lambda: backend.stats().received == len(flood), 30)
        await _finish_many(valkey, own)
        answers.set()
        for stream, item in zip(streams, own, strict=True):
            assert (await first(stream, 20)).execution_id == item.execution_id
            assert stream.stats().overflows == 1
            assert stream.stats().lost == 0
        await eventually(lambda: not any(stream.stats().catching_up for stream in streams))
        facts, records, keys = [
            await _asked(valkey, command) - count for command, count in zip(names, before, strict=True)
        ]
        # A page is one of each of the keys; they join together, not one after the other.
        assert keys < 8 * 256
        assert facts < 2 * len(flood)
        assert records < 4 * len(own)
        for stream in streams:
            assert stream.stats().filtered >= len(flood)
            await stream.aclose()


async def test_others_results_do_not_slow_down_who_fell_behind(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own are asked for: their sizes say how far it gets at once."""
    monkeypatch.setattr(filtering, "_WAITING", 100)
    flood = [done(namespace="evil", result=b"theirs") for _ in range(2_000)]
    own = done(namespace="a", result=b"mine")
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER) as backend:
        stream = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
        answers = _held(backend)
        before = [await _asked(valkey, command) for command in ("strlen", "zrange")]
        await _finish_many(valkey, [*flood, own])
        await eventually(lambda: stream.stats().overflows > 0, 30)
        answers.set()
        got = await first(stream, 20)
        assert (got.execution_id, got.payload_bytes) == (own.execution_id, b"mine")
        sizes, keys = [
            await _asked(valkey, command) - count for command, count in zip(("strlen", "zrange"), before, strict=True)
        ]
        assert sizes < 10
        # A page is one of each of the index's keys.
        assert keys < 10 * 256
        await stream.aclose()


class _Slow:
    """Somebody's code that takes its time."""

    tag_key = None

    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None) -> bool:  # the protocol's
        time.sleep(0.001)
        return False


async def test_a_slow_filter_that_fell_behind_leaves_turns_to_the_rest(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes two seconds for what it missed, and holds up the loop for a part of a second at a time."""
    monkeypatch.setattr(filtering, "_WAITING", 100)
    monkeypatch.setattr(filtering, "_BATCH", 20)
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER) as backend:
        slow = await backend.subscribe_completions_filtered(_Slow())
        answers = _held(backend)
        await _finish_many(valkey, [done(namespace="a") for _ in range(2_000)])
        await eventually(lambda: slow.stats().overflows > 0)
        answers.set()
        longest, before = 0.0, time.monotonic()
        async with asyncio.timeout(30):
            while slow.stats().filtered < 2_000:
                await asyncio.sleep(0)
                now = time.monotonic()
                longest, before = max(longest, now - before), now
        assert longest < 0.5
        await slow.aclose()


def _in_partition(number: int) -> Done:
    return Done(execution_id=f"{{fp:{number}}}:{done().execution_id.partition('}:')[2]}")
