"""A cluster of three primaries and three replicas: slots move, nodes die, replicas are promoted, all under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
from glide import GlideError

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, keys
from ffcompletion.backends.valkey.commands import Commands
from ffcompletion.backends.valkey.connection import batch, make_client
from ffcompletion.backends.valkey.errors import is_refused
from ffcompletion.backends.valkey.keys import CHANNEL
from ffcompletion.backends.valkey.options import Options
from ffcompletion.contract.diagnosis import Verdict
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.doctor import examine
from ffcompletion.embedded import Server
from tests import ROOT
from tests.worlds import FLOW, Done, ValkeyWorld, done, eventually, first, hash_tag, some
from tests.worlds.servers import Cluster, ask, wait_until

# Promotions and migrations take seconds, and longer where the machine is busy.
LONG = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with Cluster("--appendonly", "yes") as cluster:
        yield cluster


@pytest.fixture
async def cluster(nodes: Cluster) -> AsyncGenerator[ValkeyWorld]:
    """At rest, with every node up."""
    await asyncio.to_thread(wait_until, nodes.at_rest)
    world = ValkeyWorld(nodes.url)
    for number in range(3):
        ask(nodes.primary_of(number), "FLUSHALL")
    yield world
    await world.close()


def _slot(key: str) -> int:
    """CRC16/XMODEM of what is in the braces, or of it all."""
    import binascii

    tag = key[key.index("{") + 1 : key.index("}")] if "{" in key else key
    return binascii.crc_hqx(tag.encode(), 0) % 16_384


def _home(slot: int) -> int:
    """Which third of the slots it lies in."""
    return next(number for number in range(3) if slot < 16_384 * (number + 1) // 3)


async def test_the_threat_models_users(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """With the one word more that it says, on each node: who reads and who announces, and neither does the other's."""
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    lines = [line.split() for line in page.splitlines() if line.startswith("ACL SETUSER")]
    more = ("+cluster|slots", "+asking")
    assert f"`{' '.join(more)}`" in page
    for node, words in itertools.product(nodes.nodes, lines):
        ask(node, *words, "resetpass", ">password", *more)
    try:
        producer = await make_client(Options.from_url(cluster.url, username="producer", password="password"))
        backend = ValkeyBackend(cluster.url, username="reader", password="password", reconcile_interval=0.3)
        async with backend, ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as stream:
            item, solo = done(namespace="a", result=b"r"), done(namespace="a", flow_id=None)
            await cluster.finish(item)
            assert (await first(stream)).payload_bytes == b"r"
            await cluster.finish(solo)
            assert (await first(stream)).execution_id == solo.execution_id
            again = json.dumps({"execution_id": item.execution_id, "flow_id": FLOW, "outcome": "success"})
            await batch(producer, [["PUBLISH", CHANNEL, again]])
            assert (await first(stream)).execution_id == item.execution_id
            for command in (["SPUBLISH", CHANNEL, again], ["CLIENT", "PAUSE", "1"], ["CLUSTER", "RESET"]):
                (answer,) = await batch(producer, [command])
                assert isinstance(answer, GlideError)
                assert is_refused(answer)
        await producer.close()
    finally:
        for node, words in itertools.product(nodes.nodes, lines):
            ask(node, "ACL", "DELUSER", words[2])


@pytest.mark.timeout(120)
async def test_a_slot_that_is_being_moved_key_by_key(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """As long as that takes, the reader's user is answered for what has been moved, and for what is nowhere."""
    item, *others = [done(namespace="a", tags={"k": "v"}, result=b"r") for _ in range(3)]
    absent = _beside(item)
    slot = _slot(item.execution_id)
    source, target = nodes.primary_of(_home(slot)), nodes.primary_of((_home(slot) + 1) % 3)
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    line = next(line.split() for line in page.splitlines() if line.startswith("ACL SETUSER reader"))
    for node in nodes.nodes:
        ask(node, *line, "resetpass", ">password", "+cluster|slots", "+asking")
    backend = ValkeyBackend(cluster.url, username="reader", password="password", reconcile_interval=0.3)
    try:
        async with backend, ffc.subscribe(backend, ffc.ScannerFilter("a", ("k", "v")), results=True) as stream:
            await cluster.finish(item)
            assert (await first(stream)).payload_bytes == b"r"
            ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", nodes.name(source))
            ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", nodes.name(target))
            key, port = f"ff:exec:{hash_tag(item.execution_id)}:{item.execution_id}", target.url.rpartition(":")[2]
            for name in (f"{key}:core", f"{key}:tags", f"{key}:result", keys.terminal(_partition(item), "default")):
                assert ask(source, "MIGRATE", "127.0.0.1", port, name, "0", "5000") == "+OK"
            await cluster.publish(absent)
            await cluster.publish(item)
            assert (await first(stream)).payload_bytes == b"r"
            for other in others:
                await cluster.finish(msgspec.structs.replace(other, flow_id=None))
                assert (await first(stream)).execution_id == other.execution_id
            state = await backend.describe_execution(item.execution_id)
            assert state is not None
            assert state.tags == {"k": "v"}
            assert stream.stats().undecided == 1
    finally:
        for node in nodes.nodes:
            ask(node, "ACL", "DELUSER", "reader")
        for number in range(3):
            ask(nodes.primary_of(number), "CLUSTER", "SETSLOT", str(slot), "NODE", nodes.name(target))
        # Where the other tests look for it.
        ask(target, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", str(slot), str(slot), "NODE", nodes.name(source))
        await asyncio.to_thread(wait_until, partial(_owns, source, slot))


def _partition(item: Done) -> int:
    return ExecutionId(item.execution_id).partition


def _beside(item: Done) -> Done:
    """One that there is not, in the same slot."""
    return msgspec.structs.replace(item, execution_id=item.execution_id[:-12] + "0123456789ab")


async def test_the_nodes_clocks_are_compared(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """Where all of them answer."""
    commands = Commands(Options.from_url(cluster.url))
    try:
        await commands.execute([["TIME"]])
        apart_ms = await commands.clocks_apart()
        assert apart_ms is not None
        assert 0 <= apart_ms < 2_000
        ask(nodes.primary_of(0), "ACL", "SETUSER", "default", "-time")
        assert await commands.clocks_apart() is None
    finally:
        ask(nodes.primary_of(0), "ACL", "SETUSER", "default", "+time")
        await commands.aclose()


async def test_what_was_announced_before_it_ended(cluster: ValkeyWorld) -> None:
    """By anybody, shortly before: its end is no less an end, though every node has a clock of its own."""
    items = [done(namespace="a", flow_id=None, outcome="failed") for _ in range(6)]
    async with (
        ValkeyBackend(cluster.url, reconcile_interval=0.3) as backend,
        ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream,
    ):
        for item in items:
            await cluster.write(item)
            await cluster.publish(msgspec.structs.replace(item, flow_id=FLOW, outcome="success"))
        assert {p.outcome for p in await some(stream, 6)} == {"success"}
        await asyncio.sleep(1)
        for item in items:
            await cluster.finish(item)
        told = await some(stream, 6)
        assert {(p.execution_id, p.outcome) for p in told} == {(item.execution_id, "failed") for item in items}


async def test_the_doctor_knows_what_it_is(nodes: Cluster) -> None:
    """By the node's own word, and what to do where the URL does not say so."""
    findings = {it.check: it for it in await examine(nodes.url)}
    assert findings["cluster"].found.startswith("ok, 16384 of 16384 slots")
    assert findings["slots"].verdict is Verdict.OK
    findings = {it.check: it for it in await examine(nodes.url.partition("?")[0])}
    assert findings["cluster"].remedy == "?cluster=true in the URL"
    try:
        ask(nodes.nodes[0], "ACL", "SETUSER", "app", "on", ">pw", "allkeys", "allchannels", "+@all", "-asking")
        url = nodes.nodes[0].url.replace("valkey://", "valkey://app:pw@") + "?cluster=true"
        (it,) = [it for it in await examine(url) if it.check == "slots"]
        assert (it.verdict, it.remedy) == (Verdict.WARNING, "ACL SETUSER app +cluster|slots +asking")
    finally:
        ask(nodes.nodes[0], "ACL", "DELUSER", "app")


async def test_every_partition_is_heard_decided_and_found(cluster: ValkeyWorld) -> None:
    """Announced, filtered, with results, and solo: from all over the slots. The nodes' bus keeps no common order."""
    items = [
        Done(execution_id=f"{{fp:{n}}}:{done().execution_id.partition('}:')[2]}", namespace="a", result=b"r")
        for n in range(0, 256, 4)
    ]
    async with ValkeyBackend(cluster.url, reconcile_interval=0.5) as backend:
        everything = await backend.subscribe_completions()
        mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
        other = await backend.subscribe_completions_filtered(ffc.ScannerFilter("b"))
        for item in items:
            await cluster.finish(item)
        expected = [p.execution_id for p in await some(everything, len(items))]
        assert set(expected) == {item.execution_id for item in items}
        assert [(p.execution_id, p.payload_bytes) for p in await some(mine, len(items))] == [
            (id_, b"r") for id_ in expected
        ]
        solo = [done(flow_id=None, namespace="a") for _ in range(20)]
        for item in solo:
            await cluster.finish(item)
        assert {p.execution_id for p in await some(everything, 20)} == {item.execution_id for item in solo}
        assert other.stats().buffered == 0
        assert backend.stats().gaps == 0
        for stream in (everything, mine, other):
            await stream.aclose()


@asynccontextmanager
async def _under_load(world: ValkeyWorld) -> AsyncIterator[list[Done]]:
    """Two tenants' executions finish all the time; what was acknowledged is in the list."""
    finished: list[Done] = []
    namespaces = itertools.cycle("ab")

    async def work() -> None:
        while True:
            item = done(namespace=next(namespaces))
            try:
                # Not wait_for, which in 3.11 may swallow the cancellation that ends this.
                async with asyncio.timeout(2):
                    await world.finish(item)
            except (GlideError, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                finished.append(item)
            await asyncio.sleep(0.002)

    working = [asyncio.ensure_future(work()) for _ in range(4)]
    try:
        yield finished
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def _take(stream: ffc.CompletionStream, into: set[str]) -> None:
    async for completion in stream:
        into.add(completion.execution_id)


@asynccontextmanager
async def _watched(world: ValkeyWorld) -> AsyncIterator[list[Done]]:
    """A load, and on leaving: every stream has had all of its own of it, and nothing of others."""
    async with ValkeyBackend(world.url, reconcile_interval=5) as backend:
        wanted: dict[str, ffc.ScannerFilter] = {"": ffc.ScannerFilter.NOOP} | {n: ffc.ScannerFilter(n) for n in "ab"}
        streams = [await backend.subscribe_completions_filtered(flt) for flt in wanted.values()]
        seen: list[set[str]] = [set() for _ in wanted]
        reading = [asyncio.ensure_future(_take(s, into)) for s, into in zip(streams, seen, strict=True)]
        async with _under_load(world) as finished:
            yield finished
        tenants = {item.execution_id: item.namespace for item in finished}
        for name, got in zip(wanted, seen, strict=True):
            mine = {id_ for id_, namespace in tenants.items() if name in ("", namespace)}
            with contextlib.suppress(TimeoutError):
                await eventually(partial(mine.issubset, got), LONG)
            assert not mine - got, f"{len(mine - got)} of {len(mine)} lost"
            assert {tenants.get(id_, name) for id_ in got} <= {name} or not name
        for stream in streams:
            await stream.aclose()
        await asyncio.gather(*reading)


async def _restored(nodes: Cluster, node: Server) -> None:
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(wait_until, nodes.at_rest)


@pytest.mark.timeout(240)
async def test_the_node_that_carries_the_subscription_dies(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """Its replica is promoted; what was acknowledged and replicated arrives, for the right tenants only."""
    carrier = nodes.primary_of(_home(_slot(CHANNEL)))
    async with _watched(cluster) as finished:
        assert "sub=" in ask(carrier, "CLIENT", "LIST", "TYPE", "pubsub")
        await eventually(lambda: len(finished) > 200, LONG)
        # What has been acknowledged is to be on the replica as well: replication is not what is tested here.
        ask(carrier, "WAIT", "1", "1000")
        carrier.stop(signal.SIGTERM)
        before = len(finished)
        await eventually(lambda: len(finished) > before + 300, LONG)
        await _restored(nodes, carrier)


def _is_primary(nodes: Cluster, node: Server) -> bool:
    return nodes.role(node) == "primary"


@pytest.mark.timeout(240)
async def test_a_replica_is_promoted_by_hand(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """``CLUSTER FAILOVER`` moves the channel's slots to the other node of the pair, and back."""
    home = _home(_slot(CHANNEL))
    async with _watched(cluster) as finished:
        for _ in range(2):
            await eventually(lambda: len(finished) > 100, LONG)
            primary = nodes.primary_of(home)
            pair = [nodes.nodes[home], nodes.nodes[home + 3]]
            (replica,) = (node for node in pair if node is not primary)
            ask(replica, "CLUSTER", "FAILOVER")
            await asyncio.to_thread(wait_until, partial(_is_primary, nodes, replica))
            await asyncio.to_thread(wait_until, nodes.at_rest)


def _owns(node: Server, slot: int) -> bool:
    line = next(line for line in ask(node, "CLUSTER", "NODES").splitlines() if "myself" in line)
    spans = [word.partition("-") for word in line.split()[8:] if not word.startswith("[")]
    return any(int(low) <= slot <= int(high or low) for low, _, high in spans)


@pytest.mark.timeout(240)
async def test_slots_move(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """The channel's own slot and a thousand others change hands, and back, while executions finish in them."""
    slot = _slot(CHANNEL)
    home = _home(slot)
    low = min(slot, 16_384 * (home + 1) // 3 - 1_000)
    async with _watched(cluster) as finished:
        await eventually(lambda: len(finished) > 100, LONG)
        near, far = nodes.primary_of(home), nodes.primary_of((home + 1) % 3)
        for source, target in ((near, far), (far, near)):
            ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", str(low), str(low + 999), "NODE", nodes.name(target))
            await asyncio.to_thread(wait_until, partial(_owns, target, slot))
            before = len(finished)
            await eventually(partial(_more_than, finished, before + 100), LONG)


def _more_than(finished: list[Done], count: int) -> bool:
    return len(finished) > count


async def test_a_cut_subscription_is_noticed(nodes: Cluster, cluster: ValkeyWorld) -> None:
    """The subscriber's connection is killed on its node: a gap, and what it hid is found."""
    async with ValkeyBackend(cluster.url, reconcile_interval=3600) as backend, ffc.subscribe(backend) as stream:
        await cluster.finish(done())
        await first(stream)
        killed = [int(ask(nodes.primary_of(n), "CLIENT", "KILL", "TYPE", "pubsub").lstrip(":")) for n in range(3)]
        assert sum(killed) >= 1
        items = [done() for _ in range(30)]
        for item in items:
            await cluster.finish(item)
        got: set[str] = set()
        async with asyncio.timeout(LONG):
            while got != {item.execution_id for item in items}:
                got.add((await first(stream)).execution_id)
        await eventually(lambda: backend.stats().gaps >= 1, LONG)


async def test_a_single_server_is_no_cluster(valkey_url: str) -> None:
    """Said at subscribe."""
    async with ValkeyBackend(valkey_url + "?cluster=true", setup_timeout=20) as backend:
        with pytest.raises(ffc.EngineError, match="cluster"):
            await backend.subscribe_completions()
