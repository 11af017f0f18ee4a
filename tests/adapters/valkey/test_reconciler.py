"""What pub/sub forgets or is never told, found in the terminal index: on a real server."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Mapping
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, reconciler
from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.index import IndexPage
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.reconciler import Reconciler
from ffcompletion.backends.valkey.supervisor import Supervisor
from ffcompletion.options import ValkeyOptions
from tests.worlds import Done, ValkeyWorld, done, eventually, first, some
from tests.worlds.proxy import Proxy

SOON = 0.3
"""A pass every so many seconds."""
NEVER = 3600.0
"""No pass but those that a gap asks for."""


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"flow_id": None},
        {"outcome": "failed"},
        {"outcome": "cancelled", "result": b"why"},
        {"outcome": "skipped"},
    ],
    ids=["solo", "reclaim-cap", "silent cancel", "skipped"],
)
async def test_what_is_never_announced_is_found(valkey: ValkeyWorld, fields: dict[str, object]) -> None:
    """With its outcome, flow, time and, where asked for, result."""
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON) as backend:
        async with await backend.subscribe_completions(results=True) as stream:
            item = done(**fields)
            score = await valkey.finish(item, push=False, skew_ms=-3_000 if item.outcome == "skipped" else 0)
            found = await first(stream)
            assert (found.execution_id, found.outcome, found.flow_id) == (item.execution_id, item.outcome, item.flow_id)
            assert (found.payload_bytes, found.produced_at_ms) == (item.result, score)
            assert backend.stats().reconciled == 1


async def test_what_was_announced_is_not_repeated(valkey: ValkeyWorld) -> None:
    """Many passes over two hundred completions that were all told of: each comes once."""
    items = [done() for _ in range(200)]
    async with ValkeyBackend(valkey.url, reconcile_interval=0.05) as backend, ffc.subscribe(backend) as stream:
        for item in items:
            await valkey.finish(item)
        await eventually(lambda: backend.stats().received == 200)
        # A pass may have been quicker than an announcement, which is passed over then.
        quicker = backend.stats().reconciled
        reconciliation = _reconciler(backend).reconciliation
        for _ in range(2):
            settled = reconciliation.settled_ms
            await eventually(lambda settled=settled: reconciliation.settled_ms > settled)
        assert backend.stats().reconciled == quicker
        last = done(flow_id=None)
        await valkey.finish(last)
        got = [p.execution_id for p in await some(stream, 201)]
        assert got[-1] == last.execution_id
        wanted = [item.execution_id for item in items]
        assert got[:-1] == wanted if not quicker else sorted(got[:-1]) == sorted(wanted)
        assert backend.stats().reconciled == quicker + 1


async def test_what_a_dropped_connection_missed_arrives_within_a_second(valkey: ValkeyWorld) -> None:
    """The subscriber is killed, and what is announced before it is back is found as soon as it is."""
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER) as backend, ffc.subscribe(backend) as stream:
        missed = [done() for _ in range(50)]
        await valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        for item in missed:
            await valkey.finish(item)
        got = {p.execution_id for p in await some(stream, 50, 2.0)}
        assert got == {item.execution_id for item in missed}
        assert backend.stats().gaps >= 1


async def test_without_reconciling_push_is_all_there_is(valkey: ValkeyWorld) -> None:
    """``reconcile_interval=0``: no second connection, nothing found."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0) as backend, ffc.subscribe(backend) as stream:
        assert await valkey.connections() == 1
        await valkey.finish(done(flow_id=None))
        item = done()
        await valkey.finish(item)
        assert (await first(stream)).execution_id == item.execution_id
        assert backend.stats().reconciled == 0


async def test_a_half_open_connection_loses_nothing(valkey: ValkeyWorld) -> None:
    """Frozen on the way: what is announced meanwhile is found once the connection is rebuilt."""
    with Proxy(("127.0.0.1", _port(valkey.url))) as proxy:
        async with ValkeyBackend(f"valkey://127.0.0.1:{proxy.port}", reconcile_interval=NEVER) as backend:
            async with ffc.subscribe(backend) as stream:
                proxy.freeze()
                items = [done() for _ in range(20)]
                for item in items:
                    await valkey.finish(item)
                await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING)
                proxy.cut()
                proxy.thaw()
                got = {p.execution_id for p in await some(stream, 20)}
                assert got == {item.execution_id for item in items}


async def test_tenants_stay_apart_in_what_is_found(valkey: ValkeyWorld) -> None:
    """Namespace and tag decide here as they do for announcements, also after a gap."""
    wanted = {
        "a": ffc.ScannerFilter("a"),
        "b": ffc.ScannerFilter("b"),
        "tagged": ffc.ScannerFilter("a", ("k", "v")),
    }
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER) as backend:
        streams = {name: await backend.subscribe_completions_filtered(flt) for name, flt in wanted.items()}
        await valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        items = [
            done(namespace=namespace, tags=tags)
            for namespace, tags in itertools.product(("a", "b", None), ({}, {"k": "v"}, {"k": "x"}))
        ]
        for item in items:
            await valkey.finish(item)
        for name, stream in streams.items():
            expected = {i.execution_id for i in items if wanted[name].matches(i.namespace, i.tags.get("k"))}
            assert {p.execution_id for p in await some(stream, len(expected))} == expected
            assert stream.stats().buffered == 0
            await stream.aclose()


async def test_a_replayed_execution_is_announced_again(valkey: ValkeyWorld) -> None:
    """Told of, replayed, and finished again in silence: the second completion is found."""
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON) as backend, ffc.subscribe(backend) as stream:
        item = done()
        await valkey.finish(item)
        assert (await first(stream)).outcome == "success"
        await asyncio.sleep(0.02)
        await valkey.replay(item)
        await valkey.finish(Done(execution_id=item.execution_id, outcome="failed"), push=False)
        assert (await first(stream)).outcome == "failed"


async def test_a_new_stream_is_not_told_of_what_came_before_it(valkey: ValkeyWorld) -> None:
    """A solo execution ends before a second stream opens: the pass tells the first of it, not the second."""
    async with ValkeyBackend(valkey.url, reconcile_interval=0.8) as backend, ffc.subscribe(backend) as old:
        before, after = done(flow_id=None), done(flow_id=None)
        await valkey.finish(before)
        await asyncio.sleep(0.2)
        async with ffc.subscribe(backend) as new:
            await valkey.finish(after)
            assert [p.execution_id for p in await some(old, 2)] == [before.execution_id, after.execution_id]
            assert (await first(new)).execution_id == after.execution_id


async def test_what_ended_before_the_first_stream_stays_unsaid(valkey: ValkeyWorld) -> None:
    """The index is full of old completions when the backend starts."""
    for _ in range(20):
        await valkey.finish(done())
    async with ValkeyBackend(valkey.url, reconcile_interval=0.05) as backend, ffc.subscribe(backend) as stream:
        await asyncio.sleep(0.4)
        item = done(flow_id=None)
        await valkey.finish(item)
        assert (await first(stream)).execution_id == item.execution_id


async def test_a_flow_cancelled_at_once_is_read_whole(valkey: ValkeyWorld) -> None:
    """More entries of one partition at one millisecond than a page takes."""
    ids = [f"{{fp:7}}:550e8400-e29b-41d4-a716-{number:012}" for number in range(700)]
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON) as backend, ffc.subscribe(backend) as stream:
        score = await valkey.finish(done(flow_id=None))
        for id_ in ids:
            await valkey.write(Done(execution_id=id_, outcome="cancelled"))
        members = itertools.chain.from_iterable((str(score), id_) for id_ in ids)
        await valkey.command("ZADD", "ff:idx:{fp:7}:lane:default:terminal", *members)
        got = {p.execution_id for p in await some(stream, 701)}
        assert got >= set(ids)


async def test_lanes_and_partitions_are_the_engine_s(valkey: ValkeyWorld) -> None:
    """Lanes from the engine's set and from the option; as many partitions as it is configured for."""
    await valkey.command("SADD", "ff:idx:lanes", "from-the-set", "\n not a lane \x00")
    await valkey.command("HSET", "ff:config:partitions", "num_flow_partitions", "300")
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON, lanes=["by-option"]) as backend:
        async with ffc.subscribe(backend) as stream:
            for lane in ("from-the-set", "by-option"):
                item = Done(execution_id=f"{{fp:299}}:{done().execution_id.partition('}:')[2]}", flow_id=None)
                await valkey.finish(item, lane=lane)
                assert (await first(stream)).execution_id == item.execution_id


async def test_where_the_index_may_not_be_read_it_says_so_once(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Push goes on; an overflow is counted as lost."""
    monkeypatch.setattr(reconciler, "_APART_S", 0.0)
    caplog.set_level(logging.INFO, "ffcompletion")
    rules = [
        "on",
        ">pw",
        "resetkeys",
        "&*",
        "-@all",
        "+ping",
        "+info",
        "+subscribe",
        "+unsubscribe",
        "+publish",
        "+client",
    ]
    await valkey.command("ACL", "SETUSER", "pusher", *rules)
    try:
        options: ValkeyOptions = {
            "username": "pusher",
            "password": "pw",
            "reconcile_interval": 0.02,
            "buffer_size": 5,
        }
        async with ValkeyBackend(valkey.url, **options) as backend:
            async with await backend.subscribe_completions() as stream:
                for number in range(10):
                    await valkey.finish(done())
                    await eventually(lambda upto=number + 1: backend.stats().received == upto)
                # As often as it is due, and nobody asks.
                before = await _refused(valkey)

                async def often() -> bool:
                    return await _refused(valkey) >= before + 3

                await eventually(often)
                assert len(await some(stream, 5)) == 5
                assert stream.stats().lost == 5
    finally:
        await valkey.command("ACL", "DELUSER", "pusher")
    said = [record for record in caplog.records if "reconciling is off" in record.getMessage()]
    assert len(said) == 1
    assert "ACL SETUSER" in said[0].getMessage()
    assert not [record for record in caplog.records if "on again" in record.getMessage()]


async def _refused(valkey: ValkeyWorld) -> int:
    """How many times the time was asked for without the right to."""
    about = await valkey.command("INFO", "commandstats")
    assert isinstance(about, bytes)
    found = re.search(rb"cmdstat_time:.*rejected_calls=(\d+)", about)
    return int(found[1]) if found else 0


async def test_nothing_to_ask_is_no_error(valkey: ValkeyWorld) -> None:
    """glide refuses an empty pipeline; a stream behind that is owed nothing any more would ask one for ever."""
    commands = Commands(Options.from_url(valkey.url))
    assert await commands.execute([]) == []
    assert await commands.execute([("PING",)]) == [b"PONG"]
    await commands.aclose()


async def test_a_core_that_is_gone_is_no_completion(valkey: ValkeyWorld) -> None:
    """An entry without a core record (retention took it), one of another type, one that is no id: passed over."""
    async with ValkeyBackend(valkey.url, reconcile_interval=SOON) as backend, ffc.subscribe(backend) as stream:
        score = await valkey.finish(done(flow_id=None))
        await first(stream)
        gone, odd = done(), done()
        await valkey.command(
            "SET", f"ff:exec:{odd.execution_id[: odd.execution_id.index('}') + 1]}:{odd.execution_id}:core", "x"
        )
        for member in (gone.execution_id, odd.execution_id, "nonsense", b"\xff\xfe"):
            await valkey.command("ZADD", "ff:idx:{fp:3}:lane:default:terminal", str(score + 1), member)
        await valkey.command("SET", "ff:idx:{fp:4}:lane:default:terminal", "no index")
        item = done(flow_id=None)
        await valkey.finish(item)
        assert (await first(stream)).execution_id == item.execution_id


def _run(backend: ValkeyBackend) -> Supervisor:
    run = backend._run
    assert run is not None
    return run


def _reconciler(backend: ValkeyBackend) -> Reconciler:
    reconciler = _run(backend)._reconciler
    assert reconciler is not None
    return reconciler


async def test_an_entry_that_is_written_while_the_index_is_read_is_not_passed_over(valkey: ValkeyWorld) -> None:
    """Its key had been read, and a later entry of another key is in the same page: it is owed none the less."""
    items = [done() for _ in range(110)]
    async with ValkeyBackend(valkey.url, reconcile_interval=NEVER, buffer_size=40, clock_skew=0) as backend:
        stream = await backend.subscribe_completions()
        reconciler = _reconciler(backend)
        index, real = reconciler._index, reconciler._index.page
        hidden: list[Any] = []

        async def page(since_ms: int, until_ms: int, wanted: int = 1 << 30, skip: Mapping[str, int] = {}) -> Any:
            found = await real(since_ms, until_ms, wanted, skip)
            source = next(iter(reconciler._recovery._sources))
            assert source.backlog is not None
            pending = source.backlog.pending(found.entries)
            if not hidden and len(pending) > 25:
                hidden.append(pending[3])
                entries = [entry for entry in found.entries if entry != pending[3]]
                return IndexPage(entries, found.upto, found.complete, 0, pending[3][1])
            return found

        index.page = page  # type: ignore[method-assign]  # put in between
        for item in items:
            # At a millisecond of its own.
            await valkey.finish(item)
            await asyncio.sleep(0.002)
        await eventually(lambda: stream.stats().overflows > 0)
        wanted = {item.execution_id for item in items}
        got: set[str] = set()
        async with asyncio.timeout(10):
            while got != wanted:
                got.add((await anext(stream)).execution_id)
        assert hidden
        await stream.aclose()
