"""The smallest networked backend, on a server that is slow or fails where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import final

from typing_extensions import override

from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.lifecycle import NetworkedBackend
from ffcompletion.delivery.tenure import Lease
from ffcompletion.foreign.logs import logger


@final
class Held:
    """Something on the server; counted while it is held."""

    def __init__(self, server: Server, kind: str) -> None:
        self.server, self.kind, self.loop = server, kind, asyncio.get_running_loop()
        self.ended = ""
        server.held.append(self)

    async def aclose(self) -> None:
        assert asyncio.get_running_loop() is self.loop, "touched from another loop"
        await self.server.step(f"close {self.kind}")
        self.end("aclose")

    def abort(self) -> None:
        self.end("abort")

    def end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            self.server.held.remove(self)


@final
class Server:
    """Counts what is held, and may stand still at any step."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.log: list[str] = []
        self.slow: dict[str, float] = {}

    async def step(self, what: str) -> None:
        self.log.append(what)
        await asyncio.sleep(self.slow.get(what, 0))

    def count(self, kind: str) -> int:
        return sum(held.kind == kind for held in self.held)


@final
class Source:
    """One stream: open until closed, then its lease ends."""

    def __init__(self, run: Held, lease: Lease) -> None:
        self.run, self.lease, self.closed = run, lease, False

    def abort(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.abort()
        await self.lease.aclose()


@final
class Faked(NetworkedBackend[Held, Held]):
    """The smallest adapter."""

    def __init__(self, server: Server, setup_timeout: float = 5.0) -> None:
        self.state = ConnectionState("faked", logger("ffcompletion.test"), None, Backoff())
        super().__init__(self.state, "faked at nowhere", setup_timeout, 0.1)
        self.server = server

    @override
    async def _make_exchange(self) -> Held:
        await self.server.step("open exchange")
        return Held(self.server, "exchange")

    @override
    async def _make_run(self, exchange: Held) -> Held:
        await self.server.step("open run")
        run = Held(self.server, "run")
        try:
            await self.server.step("go live")
        except BaseException:
            run.abort()
            raise
        self.state.live()
        return run

    async def subscribe(self) -> Source:
        async def make(run: Held, lease: Lease) -> Source:
            await self.server.step("open stream")
            return Source(run, lease)

        return await self._open_stream("subscribe", make)

    @override
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        async with self._querying("describe_execution") as exchange:
            await self.server.step("ask")
            assert not exchange.ended
            return [None for _ in execution_ids]

    @property
    def streams(self) -> int:
        return self._streams
