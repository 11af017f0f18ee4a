"""A node leaves its cluster, as when one is taken out of service, and goes on running."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.keys import CHANNEL
from ffcompletion.embedded import Server
from tests.adapters.valkey.test_cluster import _home, _slot
from tests.worlds import ValkeyWorld, done, eventually, first
from tests.worlds.servers import SLOTS, Cluster, ask, wait_until


def _holds_none(node: Server) -> bool:
    line = next(line for line in ask(node, "CLUSTER", "NODES").splitlines() if "myself" in line)
    return len(line.split()) <= 8


@pytest.mark.timeout(120)
async def test_the_node_that_carries_the_subscription_leaves() -> None:
    """It answers and echoes as before; who is connected to it hears nothing. That is noticed, and all of it arrives."""
    with Cluster() as nodes:
        home = _home(_slot(CHANNEL))
        leaving, others = nodes.nodes[home], [nodes.primary_of(n) for n in range(3) if n != home]
        staying = [node for node in nodes.nodes if node not in (leaving, nodes.nodes[home + 3])]
        world = ValkeyWorld(f"{others[0].url}?cluster=true")
        backend = ValkeyBackend(nodes.url, reconcile_interval=60)
        async with (
            world,
            backend,
            ffc.subscribe(backend) as everything,
            ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as mine,
        ):
            span = SLOTS * home // 3, SLOTS * (home + 1) // 3 - 1
            ask(leaving, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *map(str, span), "NODE", nodes.name(others[0]))
            await asyncio.to_thread(wait_until, lambda: _holds_none(leaving))
            names = [nodes.name(leaving), nodes.name(nodes.nodes[home + 3])]
            for node in staying:
                for name in names:
                    ask(node, "CLUSTER", "FORGET", name)
            for node in (nodes.nodes[home + 3], leaving):
                with contextlib.suppress(OSError):
                    ask(node, "FLUSHALL")
                ask(node, "CLUSTER", "RESET", "HARD")
            items = [done(namespace="a", result=b"r") for _ in range(30)]
            left_at = time.monotonic()
            for item in items:
                await world.finish(item)
            for stream in (everything, mine):
                got: set[str] = set()
                while len(got) < len(items):
                    got.add((await first(stream, 30)).execution_id)
                assert got == {item.execution_id for item in items}
            assert time.monotonic() - left_at < 25
            await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
            assert backend.stats().gaps >= 1
            last = done(namespace="a", result=b"r")
            await world.finish(last)
            for stream in (everything, mine):
                while (await first(stream, 5)).execution_id != last.execution_id:
                    pass
