"""``tail``: a line for each completion, and totals at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, final

import msgspec
from rich.console import Console
from rich.text import Text

from ffcompletion.consumers.checkpointing import checkpointed
from ffcompletion.consumers.checkpoints import FileCheckpoints
from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.attached import attached_key
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Transport
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import FlowId
from ffcompletion.contract.payload import CompletionPayload, Outcome
from ffcompletion.contract.protocols import Backend
from ffcompletion.contract.stats import BackendEvent, BackendState
from ffcompletion.options import ConnectOptions
from ffcompletion.urls import connect, scheme_of

__all__ = ["COLOURS", "TailOptions", "as_json", "as_text", "ends_on_interrupt", "printable", "run_tail"]

# Characters of a result in a line for people.
_SHOWN: Final = 100

COLOURS = {
    Outcome.SUCCESS: "green",
    Outcome.FAILED: "bold red",
    Outcome.CANCELLED: "yellow",
    Outcome.EXPIRED: "magenta",
    Outcome.SKIPPED: "cyan",
    Outcome.OTHER: "white",
}


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
    attached: str | None = None
    """Jobs attached under this name are shown by their keys."""
    results: bool = False
    partitions: Collection[int] | None = None


def as_json(completion: CompletionPayload, *, result: bool = False, attached: str | None = None) -> str:
    """One line of JSON: the wire's own names, plus ``cursor`` where there is one.

    ``result``: the stored one as well, as text if it is UTF-8, else in ``result_base64``.
    """
    line: dict[str, object] = {
        "execution_id": str(completion.execution_id),
        "outcome": completion.outcome,
        "flow_id": None if completion.flow_id is None else str(completion.flow_id),
        "produced_at_ms": completion.produced_at_ms,
    }
    if attached is not None:
        line["key"] = attached_key(completion.execution_id, attached)
    if completion.cursor is not None:
        line["cursor"] = completion.cursor.to_text()
    if result:
        stored = completion.payload_bytes
        try:
            line["result"] = None if stored is None else stored.decode()
        except UnicodeDecodeError:
            line["result_base64"] = stored
    return msgspec.json.encode(line).decode()


def as_text(completion: CompletionPayload, *, result: bool = False, attached: str | None = None) -> Text:
    """One line for people. Control characters from the wire are shown, never sent to the terminal.

    ``result``: the beginning of the stored one as well, or its size where it is no text.
    """
    at = datetime.fromtimestamp(completion.produced_at_ms / 1000 or time.time()).astimezone()
    outcome = completion.outcome or "(none)"
    line = Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  ", style="dim")
    line.append(f"{printable(outcome):<10}", style=COLOURS[completion.kind])
    key = None if attached is None else attached_key(completion.execution_id, attached)
    line.append(printable(completion.execution_id) if key is None else f"{attached} {key}", style="default")
    if completion.flow_id is not None:
        line.append(f"  flow {completion.flow_id}", style="dim")
    if result and completion.payload_bytes is not None:
        line.append(f"  {_beginning(completion.payload_bytes)}")
    return line


def _beginning(stored: bytes) -> str:
    try:
        text = stored.decode()
    except UnicodeDecodeError:
        return f"({len(stored)} bytes)"
    return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def printable(text: str) -> str:
    """The text with control characters shown, so that nothing from the wire is sent to the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


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
    given: ConnectOptions = {"schema": options.schema} if options.schema and scheme_of(url) == "postgres" else {}
    started = time.monotonic()
    given["observer"] = _Mended().changed
    live = asyncio.Event()
    async with ends_on_interrupt() as ended, connect(url, **given) as backend:
        showing = asyncio.create_task(_show(backend, options, totals, live))
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


async def _show(backend: Backend, options: TailOptions, totals: Counter[str], live: asyncio.Event) -> None:
    console = Console(highlight=False, soft_wrap=True)
    async with _stream(backend, options) as stream:
        live.set()
        if console.is_terminal and not options.json:
            console.print(Text(f"listening: {backend!r}  (Ctrl-C ends)", style="dim"))
        async for completion in stream:
            if options.outcomes and completion.kind not in options.outcomes:
                continue
            if options.flow is not None and completion.flow_id != options.flow:
                continue
            totals[completion.outcome] += 1
            if options.json:
                sys.stdout.write(as_json(completion, result=options.results, attached=options.attached) + "\n")
                sys.stdout.flush()
            else:
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
