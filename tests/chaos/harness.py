"""What chaos on either server has in common: misfortunes by the dice, consumers with ledgers, a settlement."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

import ffcompletion as ffc
from ffcompletion.embedded import Server
from tests.chaos.ledger import Ledger
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

    def __init__(self, seconds: float, seed: int) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.seconds = seconds
        self.ledgers: list[Ledger] = []
        self.faults: dict[str, int] = {}
        self.consumers: list[asyncio.Task[None]] = []
        self.ending = False

    @abstractmethod
    def kinds(self) -> list[Fault]:
        """The misfortunes to choose from."""

    @abstractmethod
    async def heal(self) -> None:
        """Everything works again."""

    @abstractmethod
    async def truth(self) -> list[tuple[str, str]]:
        """Every completion that the server holds: id and tenant."""

    def is_stranger(self, name: str, execution_id: str) -> bool:
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

    def ledger(self, name: str, *, may_repeat: bool = False, may_lose: bool = False) -> Ledger:
        """One more account."""
        made = Ledger(name, may_repeat=may_repeat, may_lose=may_lose)
        self.ledgers.append(made)
        return made

    async def read(self, stream: ffc.CompletionStream, ledger: Ledger, stall: float = 0.0) -> None:
        """Enter everything; ``stall``: seconds to stop for, now and then."""
        async for completion in stream:
            ledger.add(completion.execution_id)
            if stall and not self.ending and self.dice.random() < 0.0003:
                await asyncio.sleep(stall * self.dice.random())

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """In a task of its own, until the end."""
        self.consumers.append(asyncio.create_task(work))

    async def settle(self) -> None:
        """Wait until all that the server holds has been delivered, or clearly never will be; then stop consuming."""
        self.ending = True
        everything = await self.truth()
        for ledger in self.ledgers:
            tenant = ledger.name.partition("tenant ")[2]
            ledger.settle(id_ for id_, whose in everything if tenant in ("", whose))
            ledger.strangers = sum(self.is_stranger(ledger.name, id_) for id_ in ledger.unasked)
            await asyncio.sleep(0)
        end = time.monotonic() + self.patience_s
        while any(ledger.lost and not ledger.may_lose for ledger in self.ledgers) and time.monotonic() < end:
            await asyncio.sleep(0.2)
            for ledger in self.ledgers:
                ledger.look_again()
        for task in self.consumers:
            task.cancel()
        await asyncio.gather(*self.consumers, return_exceptions=True)

    @property
    def sound(self) -> bool:
        """Whether every account is."""
        return all(ledger.sound for ledger in self.ledgers)

    def report(self) -> str:
        """The accounts as text."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        head = f"{self.name}, seed {self.seed}, {self.seconds:.0f} s; faults: {faults}"
        return "\n".join([head, *(ledger.row() for ledger in self.ledgers)])
