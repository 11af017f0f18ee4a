"""Valkey under faults: kills, restarts, freezes, half-open and cut connections, floods, slow consumers."""

from __future__ import annotations

import asyncio
import os
import signal

from glide import GlideError
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.valkey import ValkeyBackend
from tests.chaos.harness import Chaos, Fault
from tests.chaos.poison import Held, held_on_valkey
from tests.worlds import ValkeyWorld
from tests.worlds.proxy import Proxy

# What a crash of the process cannot take: written before anybody is answered or told.
SETTINGS = ("--appendonly", "yes", "--appendfsync", "everysec", "--enable-debug-command", "yes")
# A subscriber that does not read is dropped soon.
LIMITS = ("--client-output-buffer-limit", "pubsub 1mb 512kb 2")
NOISE = "for i = 1, 5000 do redis.call('PUBLISH', 'ff:dag:completions', string.rep('x', 2000)) end"


class ValkeyChaos(Chaos):
    """One Valkey."""

    name = "Valkey"
    errors = (OSError, GlideError, ffc.EngineError, TimeoutError)
    reconcile_s = 15.0

    def __init__(self, seconds: float, seed: int, per_second: float, poison: float) -> None:
        super().__init__(seconds, seed, poison)
        self.per_second = per_second
        self.world = self.place()
        host, _, port = self.world.url.removeprefix("valkey://").partition(",")[0].partition(":")
        self.proxy = Proxy((host, int(port)))

    def place(self) -> ValkeyWorld:
        """Start what is to be hurt."""
        self.server = embedded.valkey(*SETTINGS, *LIMITS)
        return ValkeyWorld(self.server.url)

    def close(self) -> None:
        """Stop it."""
        self.server.close()

    # ── misfortunes ──────────────────────────────────────────────────────────────────────────────────────────────

    async def command(self, *words: str) -> object:
        try:
            return await asyncio.wait_for(self.world.command(*words), 5)
        except (GlideError, TimeoutError):
            await self.world.forget()
            raise

    async def kill_subscribers(self) -> None:
        await self.command("CLIENT", "KILL", "TYPE", "pubsub")

    async def kill_everybody(self) -> None:
        await self.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await self.command("CLIENT", "KILL", "TYPE", "pubsub")

    async def stop_the_process(self) -> None:
        os.kill(self.server.pid, signal.SIGSTOP)
        await asyncio.sleep(1 + 4 * self.dice.random())
        os.kill(self.server.pid, signal.SIGCONT)

    async def sleep(self) -> None:
        await self.command("DEBUG", "SLEEP", f"{1 + 2 * self.dice.random():.2f}")

    async def flood(self) -> None:
        self.proxy.freeze()
        await self.command("EVAL", NOISE, "0")
        await asyncio.sleep(3)
        self.proxy.thaw()

    @override
    def kinds(self) -> list[Fault]:
        return [
            self.kill_subscribers, self.kill_everybody, self.restart, self.stop_the_process, self.sleep, self.freeze,
            self.blackhole, self.cut, self.flood,
        ]  # fmt: skip

    @override
    async def heal(self) -> None:
        self.proxy.thaw()

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────

    def urls(self) -> dict[str, str]:
        """Where the backends connect to."""
        return {"near": self.world.url, "far": f"valkey://127.0.0.1:{self.proxy.port}"}

    @override
    async def run(self) -> bool:
        with self.proxy:
            async with asyncio.TaskGroup() as group:
                opened = [group.create_task(self._open(place, url)) for place, url in self.urls().items()]
            backends = [backend for task in opened for backend in task.result()]
            try:
                await self.write("valkey_writer", self.world.url, self.seed, self.seconds, self.per_second, self.poison)
                await self.settle()
            finally:
                for backend in backends:
                    await backend.aclose()
                await self.world.close()
        return self.sound

    async def _open(self, place: str, url: str) -> list[ValkeyBackend]:
        backend = ValkeyBackend(url, buffer_size=2000, reconcile_interval=self.reconcile_s, setup_timeout=60)
        alone = ValkeyBackend(url, reconcile_interval=0, setup_timeout=60)
        self.start(self.read(await backend.subscribe_completions(), self.ledger(place, may_repeat=True)))
        for tenant, shard in (("a", None), ("b", None), ("a", "1"), (None, "0")):
            wanted = ffc.ScannerFilter(tenant, None if shard is None else ("shard", shard))
            stream = await backend.subscribe_completions_filtered(wanted)
            self.start(self.read(stream, self.ledger(place, tenant, shard, may_repeat=True)))
        await self.beside(place, backend)
        slow = await backend.subscribe_completions()
        self.start(self.read(slow, self.ledger(f"{place}, slow", may_repeat=True), 6.0))
        push = self.ledger(f"{place}, push alone", may_repeat=True, may_lose=True)
        self.start(self.read(await alone.subscribe_completions(), push))
        return [backend, alone]

    @override
    async def truth(self) -> list[Held]:
        found: list[Held] = []
        for partition in range(256):
            key = f"ff:idx:{{fp:{partition}}}:lane:default:terminal"
            members = await self.world.command("ZRANGE", key, "0", "-1")
            assert isinstance(members, list)
            # What is no id was put there to be in the way.
            ids = [member.decode() for member in members if isinstance(member, bytes) and member.startswith(b"{fp:")]
            found += [held_on_valkey(id_) for id_ in ids]
        return found


async def run_valkey_chaos(
    seconds: float, seed: int, per_second: float = 1000.0, reconcile_s: float = 15.0, poison: float = 0.001
) -> tuple[bool, str]:
    """Run it; whether all accounts are sound, and the ledger as text."""
    chaos = await asyncio.to_thread(ValkeyChaos, seconds, seed, per_second, poison)
    chaos.reconcile_s = reconcile_s
    try:
        sound = await chaos.run()
    finally:
        await asyncio.to_thread(chaos.close)
    return sound, chaos.report()
