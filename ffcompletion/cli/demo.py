"""``demo``: throw-away servers, a workload, and the completions arriving per tenant, live."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Final, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ffcompletion import embedded
from ffcompletion.cli.board import serving_board
from ffcompletion.cli.showing import as_text
from ffcompletion.cli.workload import TENANTS, Workload
from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.producers import install
from ffcompletion.producers.finishing import finishing
from ffcompletion.urls import connect

__all__ = ["run_demo"]

_PER_SECOND: Final = 100.0
_LAST: Final = 10
_REFRESH_S: Final = 0.25
# After the last job: what is under way arrives well within this.
_DRAIN_S: Final = 5.0


@final
class _Tally:
    """What one tenant's stream on one server has brought."""

    def __init__(self, server: str, tenant: str, workload: Workload) -> None:
        self.server = server
        self.tenant = tenant
        self.workload = workload
        self.received = 0
        self.strangers = 0
        self.outcomes: Counter[str] = Counter()
        self.latency_ms: deque[float] = deque(maxlen=10_000)
        self.arrived: deque[float] = deque(maxlen=1_000)

    @property
    def expected(self) -> int:
        """What was announced for this tenant."""
        return self.workload.sent[self.tenant]

    def add(self, completion: CompletionPayload) -> None:
        now = time.monotonic()
        sent_at = self.workload.sent_at.get(completion.execution_id)
        self.received += 1
        self.strangers += sent_at is None
        self.outcomes[completion.outcome] += 1
        self.arrived.append(now)
        if sent_at is not None:
            self.latency_ms.append((now - sent_at) * 1000)

    def rate(self) -> float:
        """Per second, over the last two seconds."""
        now = time.monotonic()
        return sum(now - at <= 2.0 for at in self.arrived) / 2.0


async def run_demo(kinds: Sequence[str], seconds: float, *, board: bool = False) -> int:
    """Run it, with a page for each server if wanted; exit status 0 if everything announced was received. Raises ``EngineError``."""
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as servers:
        urls: dict[str, str] = {}
        for kind in kinds:
            console.print(Text(f"starting a throw-away {kind} …", style="dim"))
            server = await (
                asyncio.to_thread(embedded.valkey) if kind == "valkey" else asyncio.to_thread(embedded.postgres)
            )
            urls[kind] = servers.enter_context(server).url
            console.print(Text(await install(urls[kind]), style="dim"))
        return await _watch(console, urls, seconds, board=board)


async def _watch(console: Console, urls: dict[str, str], seconds: float, *, board: bool) -> int:
    recent: deque[Text] = deque(maxlen=_LAST)
    tallies: list[_Tally] = []
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        readers: list[asyncio.Task[None]] = []
        workloads: list[Workload] = []
        for kind, url in urls.items():
            finish = await stack.enter_async_context(finishing(url))
            workload = Workload(finish, _PER_SECOND, random.Random(kind))  # noqa: S311  # no secret
            workloads.append(workload)
            backend = await stack.enter_async_context(connect(url))
            if board:
                at = await stack.enter_async_context(serving_board(backend, "127.0.0.1", 0))
                console.print(Text(f"{kind}: {at}", style="bold"))
            for tenant in TENANTS:
                tally = _Tally(kind, tenant, workload)
                tallies.append(tally)
                stream = await stack.enter_async_context(subscribe(backend, ScannerFilter(tenant)))
                # Beside a page no line each: where nobody reads them, a full pipe would hold up the page too.
                told = None if board or console.is_terminal else console
                readers.append(group.create_task(_read(stream, tally, recent, told)))
        work = [asyncio.create_task(workload.run(seconds)) for workload in workloads]
        try:
            await _show(console, tallies, recent, work)
        finally:
            for task in (*work, *readers):
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    return _summary(console, tallies, seconds)


async def _read(stream: CompletionStream, tally: _Tally, recent: deque[Text], told: Console | None) -> None:
    async for completion in stream:
        tally.add(completion)
        line = Text(f"{tally.server:<9}{tally.tenant:<7} ", style="bold").append_text(as_text(completion))
        recent.append(line)
        if told is not None:
            told.print(line)


async def _show(
    console: Console, tallies: list[_Tally], recent: deque[Text], work: Sequence[asyncio.Task[None]]
) -> None:
    async def finish() -> None:
        await asyncio.gather(*work)
        end = time.monotonic() + _DRAIN_S
        while time.monotonic() < end and any(tally.received < tally.expected for tally in tallies):  # noqa: ASYNC110  # a display, not a signal
            await asyncio.sleep(0.02)

    running = asyncio.create_task(finish())
    try:
        if not console.is_terminal:
            await running
            return
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            while not running.done():
                live.update(_view(tallies, recent))
                await asyncio.wait({running}, timeout=_REFRESH_S)
        await running
    finally:
        running.cancel()


def _view(tallies: list[_Tally], recent: deque[Text]) -> RenderableType:
    return Group(_table(tallies, live=True), *recent)


def _table(tallies: list[_Tally], *, live: bool) -> Table:
    table = Table(title="completions, by server and tenant", title_justify="left")
    for name in ("server", "tenant", "announced", "received", "per second" if live else "outcomes", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if name in ("server", "tenant", "outcomes") else "right")
    for tally in tallies:
        cuts = statistics.quantiles(tally.latency_ms, n=100) if len(tally.latency_ms) > 1 else [0.0] * 99
        outcomes = "  ".join(f"{outcome} {number}" for outcome, number in tally.outcomes.most_common())
        table.add_row(
            tally.server,
            tally.tenant,
            str(tally.expected),
            str(tally.received),
            f"{tally.rate():.0f}" if live else outcomes,
            f"{cuts[49]:.1f}",
            f"{cuts[98]:.1f}",
        )
    return table


def _summary(console: Console, tallies: list[_Tally], seconds: float) -> int:
    console.print(_table(tallies, live=False))
    sent = sum(tally.expected for tally in tallies)
    received = sum(tally.received for tally in tallies)
    strangers = sum(tally.strangers for tally in tallies)
    whole = received == sent and not strangers and all(tally.received == tally.expected for tally in tallies)
    console.print(
        f"announced {sent}, received {received}, of another tenant {strangers}, in {seconds:g} s", style="bold"
    )
    return 0 if whole else 1
