"""``tail``: a line for each completion, and totals at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import final

import msgspec
from rich.console import Console
from rich.text import Text

from ffcompletion.cli.live import shown_live, table_of
from ffcompletion.cli.running import check_attached, opened
from ffcompletion.cli.showing import as_json, as_text, printable
from ffcompletion.consumers.checkpointing import checkpointed
from ffcompletion.consumers.checkpoints import FileCheckpoints
from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Transport
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import FlowId
from ffcompletion.contract.payload import CompletionPayload, Outcome
from ffcompletion.contract.protocols import Backend
from ffcompletion.contract.stats import BackendEvent, BackendState

__all__ = ["TailOptions", "ends_on_interrupt", "run_tail"]


@final
class TailOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to show, and when to stop."""

    filter: ScannerFilter = ScannerFilter.NOOP
    outcomes: frozenset[Outcome] = frozenset()
    flow: FlowId | None = None
    count: int | None = None
    timeout: float | None = None
    schema: str | None = None
    json: bool = False
    start: StreamCursor | None = None
    checkpoint: Path | None = None
    summary: bool = False
    """No lines: a table of outcomes."""
    attached: str | None = None
    """Jobs attached under this name are shown by their keys."""
    results: bool = False
    partitions: Collection[int] | None = None


@asynccontextmanager
async def ends_on_interrupt() -> AsyncGenerator[asyncio.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the totals are still printed."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    caught = (signal.SIGINT, signal.SIGTERM)
    for sign in caught:
        loop.add_signal_handler(sign, ended.set)
    try:
        yield ended
    finally:
        for sign in caught:
            loop.remove_signal_handler(sign)


async def run_tail(url: str, options: TailOptions) -> int:
    """Show completions until told to stop; the exit status. Raises ``EngineError``."""
    totals: Counter[str] = Counter()
    started = time.monotonic()
    live = asyncio.Event()
    opening = opened(url, options.schema, observer=_Mended().changed)
    async with ends_on_interrupt() as ended, opening as backend:
        showing = asyncio.create_task(_show(url, backend, options, totals, live))
        stopping = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({showing, stopping}, timeout=options.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            showing.cancel()
            stopping.cancel()
            (outcome, _) = await asyncio.gather(showing, stopping, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome
        if not live.is_set() and not ended.is_set():
            raise Transport(repr(backend), f"no answer within {options.timeout:g} s")
    if options.summary:
        Console(highlight=False).print(table_of(totals))
    if not options.json:
        _print_totals(totals, time.monotonic() - started)
    return 0


@final
class _Mended:
    """Tells people that completions flow again, after the log has told of the fault."""

    def __init__(self) -> None:
        self._broken = False

    def changed(self, event: BackendEvent) -> None:
        if event.state is BackendState.RECONNECTING:
            self._broken = True
        elif self._broken and event.state in (BackendState.LIVE, BackendState.POLLING):
            self._broken = False
            sys.stderr.write(f"ffcompletion: {event.backend} is {event.state.value} again\n")
            sys.stderr.flush()


async def _show(url: str, backend: Backend, options: TailOptions, totals: Counter[str], live: asyncio.Event) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if options.attached is not None:
        await check_attached(url, options.attached, options.schema)
    async with _stream(backend, options) as stream, AsyncExitStack() as stack:
        live.set()
        if console.is_terminal and not options.json:
            console.print(Text(f"listening: {backend!r}  (Ctrl-C ends)", style="dim"))
            await stack.enter_async_context(shown_live(console, backend, stream, totals, table=options.summary))
        async for completion in stream:
            if options.outcomes and completion.kind not in options.outcomes:
                continue
            if options.flow is not None and completion.flow_id != options.flow:
                continue
            totals[completion.outcome] += 1
            if options.json:
                sys.stdout.write(as_json(completion, result=options.results, attached=options.attached) + "\n")
                sys.stdout.flush()
            elif not options.summary:
                console.print(as_text(completion, result=options.results, attached=options.attached))
                console.file.flush()
            if options.count is not None and totals.total() >= options.count:
                return


@asynccontextmanager
async def _stream(backend: Backend, options: TailOptions) -> AsyncGenerator[AsyncIterator[CompletionPayload]]:
    results, partitions = options.results, options.partitions
    if options.checkpoint is None:
        async with subscribe(
            backend, options.filter, cursor=options.start, partitions=partitions, results=results
        ) as stream:
            yield stream
        return
    store = FileCheckpoints(options.checkpoint)
    async with checkpointed(
        backend, store, "tail", options.filter, start=options.start, partitions=partitions, results=results
    ) as completions:
        yield completions
        # What stopped the loop had been shown.
        await completions.commit()


def _print_totals(totals: Counter[str], seconds: float) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    parts = ", ".join(f"{printable(outcome) or '(none)'} {number}" for outcome, number in sorted(totals.items()))
    console.print(
        f"{totals.total()} completions in {seconds:.1f} s{': ' + parts if parts else ''}", style="bold", markup=False
    )
