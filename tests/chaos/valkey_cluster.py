"""A Valkey cluster under faults: nodes die and are replaced, replicas are promoted, nodes stand still, slots move."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from typing_extensions import override

from ffcompletion.embedded import Server
from tests.chaos.harness import Fault
from tests.chaos.ledger import Ledger
from tests.chaos.poison import held_on_valkey
from tests.chaos.valkey import ValkeyChaos
from tests.worlds import ValkeyWorld
from tests.worlds.servers import Cluster, ask, wait_until

# An index entry that is acknowledged and announced may be gone after a promotion, because replication is not
# synchronous: a node that is to die is first given the time to pass on what it has.
SETTINGS = ("--appendonly", "yes", "--appendfsync", "everysec", "--enable-debug-command", "yes")


class ClusterChaos(ValkeyChaos):
    """Three primaries, each with a replica. No proxy: nodes tell their own addresses."""

    name = "Valkey cluster"
    pause_s = (3.0, 8.0)
    patience_s = 120.0

    def __init__(self, seconds: float, seed: int, per_second: float, poison: float) -> None:
        self.cluster = Cluster(*SETTINGS)
        super().__init__(seconds, seed, per_second, poison)

    @override
    def place(self) -> ValkeyWorld:
        return ValkeyWorld(self.cluster.url)

    @override
    def urls(self) -> dict[str, str]:
        return {"cluster": self.cluster.url}

    # ── misfortunes ──────────────────────────────────────────────────────────────────────────────────────────────

    def primary(self) -> Server:
        return self.cluster.primary_of(self.dice.randrange(3))

    async def rest(self) -> None:
        await asyncio.to_thread(wait_until, self.cluster.at_rest)

    async def everywhere(self, *words: str) -> None:
        for node in self.cluster.nodes:
            await asyncio.to_thread(ask, node, *words)

    @override
    async def kill_subscribers(self) -> None:
        await self.everywhere("CLIENT", "KILL", "TYPE", "pubsub")

    @override
    async def kill_everybody(self) -> None:
        await self.everywhere("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await self.everywhere("CLIENT", "KILL", "TYPE", "pubsub")

    async def a_node_dies(self) -> None:
        """A primary goes, its replica is promoted, and it comes back as a replica."""
        await self.rest()
        node = self.primary()
        # Nothing more is acknowledged, and what was is on the replica.
        await asyncio.to_thread(ask, node, "CLIENT", "PAUSE", "60000", "WRITE")
        await asyncio.to_thread(ask, node, "WAIT", "1", "2000")
        await asyncio.sleep(0.2)
        node.kill()
        await asyncio.sleep(4 + 4 * self.dice.random())
        await asyncio.to_thread(node.start)
        await self.rest()

    async def promotion_by_hand(self) -> None:
        await self.rest()
        number = self.dice.randrange(3)
        primary = self.cluster.primary_of(number)
        pair = (self.cluster.nodes[number], self.cluster.nodes[number + 3])
        (replica,) = (node for node in pair if node is not primary)
        await asyncio.to_thread(ask, replica, "CLUSTER", "FAILOVER")
        await self.rest()

    @override
    async def stop_the_process(self) -> None:
        """For less than it takes to be declared dead."""
        node = self.primary()
        os.kill(node.pid, signal.SIGSTOP)
        await asyncio.sleep(0.3 + self.dice.random())
        os.kill(node.pid, signal.SIGCONT)

    @override
    async def sleep(self) -> None:
        await asyncio.to_thread(ask, self.primary(), "DEBUG", "SLEEP", f"{0.3 + self.dice.random():.2f}")

    async def slots_move(self) -> None:
        """A hundred slots go to another primary."""
        await self.rest()
        source, target = self.primary(), self.primary()
        if source is target:
            return
        mine = next(line for line in ask(source, "CLUSTER", "NODES").splitlines() if "myself" in line)
        low, _, high = self.dice.choice(mine.split()[8:]).partition("-")
        last = min(int(high or low), int(low) + 99)
        name = self.cluster.name(target)
        await asyncio.to_thread(ask, source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", low, str(last), "NODE", name)
        end = time.monotonic() + 20
        while time.monotonic() < end and f"{low}-{last}" in ask(source, "CLUSTER", "NODES"):
            await asyncio.sleep(0.1)

    @override
    def kinds(self) -> list[Fault]:
        return [
            self.kill_subscribers, self.kill_everybody, self.a_node_dies, self.promotion_by_hand,
            self.stop_the_process, self.sleep, self.slots_move,
        ]  # fmt: skip

    @override
    async def heal(self) -> None:
        await self.rest()

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    def is_stranger(self, ledger: Ledger, execution_id: str) -> bool:
        # What a promotion took back had been announced: only another tenant's is a stranger.
        return not ledger.admits(held_on_valkey(execution_id))

    @override
    def close(self) -> None:
        self.cluster.close()


async def run_cluster_chaos(
    seconds: float, seed: int, per_second: float = 1000.0, poison: float = 0.001
) -> tuple[bool, str]:
    """Run it; whether all accounts are sound, and the ledger as text."""
    chaos = await asyncio.to_thread(ClusterChaos, seconds, seed, per_second, poison)
    try:
        sound = await chaos.run()
    finally:
        await asyncio.to_thread(chaos.close)
    return sound, chaos.report()
