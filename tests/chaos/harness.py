"""What chaos on either server has in common: misfortunes by the dice, consumers with ledgers, a settlement."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

import ffcompletion as ffc
from ffcompletion.embedded import Server
from ffcompletion.testing.hostile import Conduct, HostileFilter
from tests.chaos.ledger import Ledger
from tests.chaos.poison import Held
from tests.worlds import Patience
from tests.worlds.proxy import Proxy

Fault = Callable[[], Awaitable[None]]


class Chaos(ABC):
    """One server (or cluster), its writers, its consumers and its misfortunes."""

    name: str
    server: Server
    proxy: Proxy
    errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """What a misfortune may raise because of another one."""
    pause_s: tuple[float, float] = (1.0, 4.0)
    """The time from one misfortune to the next."""
    patience_s = 60.0

    def __init__(self, seconds: float, seed: int, poison: float) -> None:
        """``poison``: which part of the records."""
        self.poison = poison
        self.dice = random.Random(seed)
        self.seed = seed
        self.seconds = seconds
        self.ledgers: list[Ledger] = []
        self.faults: dict[str, int] = {}
        self.consumers: list[asyncio.Task[None]] = []
        self.ending = False
        self.wrote = True
        """The writers went on to the end."""

    @abstractmethod
    def kinds(self) -> list[Fault]:
        """The misfortunes to choose from."""

    @abstractmethod
    async def heal(self) -> None:
        """Everything works again."""

    @abstractmethod
    async def truth(self) -> list[Held]:
        """Every completion that the server holds."""

    def is_stranger(self, ledger: Ledger, execution_id: str) -> bool:
        """Whether something that the server does not hold for this account should not have been delivered to it."""
        return True

    @abstractmethod
    async def run(self) -> bool:
        """Run it; whether all accounts are sound."""

    async def misfortunes(self) -> None:
        """One after the other, until the time is over."""
        end = time.monotonic() + self.seconds
        low, high = self.pause_s
        while time.monotonic() < end:
            await asyncio.sleep(low + (high - low) * self.dice.random())
            fault = self.dice.choice(self.kinds())
            self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
            with contextlib.suppress(*self.errors):
                await fault()
        await self.heal()

    # ── misfortunes on either server ─────────────────────────────────────────────────────────────────────────────────

    async def restart(self) -> None:
        self.server.kill()
        await asyncio.sleep(self.dice.random())
        await asyncio.to_thread(self.server.start)

    async def freeze(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(1 + 5 * self.dice.random())
        self.proxy.thaw()

    async def blackhole(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(1 + 3 * self.dice.random())
        self.proxy.cut()
        self.proxy.thaw()

    async def cut(self) -> None:
        self.proxy.cut()

    # ── consumers ────────────────────────────────────────────────────────────────────────────────────────────────

    def ledger(self, name: str, tenant: str | None = None, shard: str | None = None, **rules: Any) -> Ledger:
        """One more account: of everything, of a tenant's, of what bears a tag."""
        name += "" if tenant is None else f", tenant {tenant}"
        made = Ledger(name + ("" if shard is None else f", shard {shard}"), tenant, shard, **rules)
        self.ledgers.append(made)
        return made

    async def beside(self, place: str, backend: ffc.Backend) -> None:
        """A filter that does all that a filter must not, in every stream's neighbourhood."""
        # Slow one time in so many, or it would be the machine that is slow.
        conducts: list[Conduct] = ["yes", "no", "raise", "truthy", "cancel", "awkward", "exit", "later", "change"] * 8
        hostile = HostileFilter([*conducts, "slow"], tag_keys=("shard", "other"), hashable=False)
        ledger = self.ledger(
            f"{place}, hostile", may_repeat=True, may_lose=True, limit=lambda: hostile.admitted
        )  # fmt: skip
        self.start(self.read(await backend.subscribe_completions_filtered(hostile), ledger))

    async def read(self, stream: ffc.CompletionStream, ledger: Ledger, stall: float = 0.0) -> None:
        """Enter everything; ``stall``: seconds to stop for, now and then."""
        async for completion in stream:
            ledger.add(completion.execution_id)
            if stall and not self.ending and self.dice.random() < 0.0003:
                await asyncio.sleep(stall * self.dice.random())

    async def write(self, module: str, *arguments: object) -> None:
        """Writers in a process of their own, while misfortunes happen."""
        words = [str(argument) for argument in arguments]
        writer = await asyncio.create_subprocess_exec(sys.executable, "-m", f"tests.chaos.{module}", *words)
        await self.misfortunes()
        self.wrote = await asyncio.wait_for(writer.wait(), 120) == 0

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """In a task of its own, until the end."""
        self.consumers.append(asyncio.create_task(work))

    async def settle(self) -> None:
        """Wait until all that the server holds has been delivered, or clearly never will be; then stop consuming."""
        self.ending = True
        everything = await self.truth()
        for ledger in self.ledgers:
            ledger.settle(everything)
            await asyncio.sleep(0)
        # A consumer that is behind gets the time that it needs; one that stands still is waited for so long.
        waited_for = [ledger for ledger in self.ledgers if not ledger.may_lose]
        patience, took_s = Patience(self.patience_s), 0.0
        while (missing := sum(ledger.lost for ledger in waited_for)) and patience.lasts(missing):
            # Looking takes time of those who are looked at, the more the further they are behind.
            await asyncio.sleep(max(0.2, 9 * took_s))
            began = time.monotonic()
            for ledger in self.ledgers:
                ledger.look_again()
            took_s = time.monotonic() - began
        for task in self.consumers:
            task.cancel()
        await asyncio.gather(*self.consumers, return_exceptions=True)
        for ledger in self.ledgers:
            # Now, or what came while the others were waited for would not count.
            ledger.settle(everything)
            ledger.count_strangers(self.is_stranger)

    @property
    def sound(self) -> bool:
        """Whether every account is, and something was entered."""
        return self.wrote and all(ledger.sound and ledger.sent for ledger in self.ledgers)

    def report(self) -> str:
        """The accounts as text."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        head = f"{self.name}, seed {self.seed}, {self.seconds:.0f} s; faults: {faults}"
        return "\n".join([head, *(ledger.row() for ledger in self.ledgers)])
