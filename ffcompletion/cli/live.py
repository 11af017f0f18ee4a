"""What ``tail`` keeps in view on a terminal: rate, lag and state, beside the lines and never instead of one."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TextIO, cast, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ffcompletion.cli.showing import COLOURS, printable
from ffcompletion.consumers.processing import Checkpointed
from ffcompletion.contract.payload import kind_of
from ffcompletion.contract.protocols import Backend, Subscription
from ffcompletion.contract.stats import BackendState, Lag

__all__ = ["Rate", "lag_of", "shown_live", "table_of"]

_REFRESH_S: Final = 0.25
_WINDOW_S: Final = 5.0
_CALM: Final = (BackendState.LIVE, BackendState.POLLING)


@final
class Rate:
    """Completions a second, over the last few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])

    def per_second(self, total: int) -> float:
        """``total``: of all so far."""
        now = self._clock()
        self._marks.append((now, total))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW_S:
            self._marks.popleft()
        since, before = self._marks[0]
        return (total - before) / (now - since) if now > since else 0.0


def lag_of(stream: object) -> Lag | None:
    """How far a stream is behind, where it can tell."""
    if isinstance(stream, Checkpointed):
        return stream.lag
    return stream.stats().lag if isinstance(stream, Subscription) else None


def table_of(totals: Counter[str]) -> Table:
    """Completions by outcome."""
    table = Table("outcome", "completions")
    table.columns[1].justify = "right"
    for outcome, number in sorted(totals.items()):
        table.add_row(Text(printable(outcome) or "(none)", style=COLOURS[kind_of(outcome)]), f"{number:,}")
    table.add_section()
    table.add_row("all", f"{totals.total():,}")
    return table


@asynccontextmanager
async def shown_live(
    console: Console, backend: Backend, stream: object, totals: Counter[str], *, table: bool
) -> AsyncGenerator[None]:
    """While the block lasts, kept in view below the lines, so that every line stays in the terminal's own history."""
    rate = Rate()

    def look() -> RenderableType:
        line = _state(backend, lag_of(stream), rate.per_second(totals.total()), totals.total())
        return Group(table_of(totals), line) if table else line

    with Live(
        look(), console=console, auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty()
    ) as live, _logged_above():  # fmt: skip
        refreshing = asyncio.create_task(_refresh(live, look), name="ffcompletion-tail-live")
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])


async def _refresh(live: Live, look: Callable[[], RenderableType]) -> None:
    while True:
        live.update(look(), refresh=True)
        await asyncio.sleep(_REFRESH_S)


@contextmanager
def _logged_above() -> Generator[None]:
    """The log goes where the lines go, instead of across what is kept in view."""
    on_stderr: list[logging.StreamHandler[TextIO]] = [
        cast("logging.StreamHandler[TextIO]", handler)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    handlers = [handler for handler in on_stderr if handler.stream is sys.__stderr__ and handler.stream.isatty()]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.__stderr__ or sys.stderr)


def _state(backend: Backend, lag: Lag | None, rate: float, total: int) -> Text:
    state = backend.stats().state
    parts = [(state.value, "green" if state in _CALM else "bold yellow"), f"{rate:,.1f}/s", f"{total:,} in all"]
    if lag is not None:
        behind = f"{lag.completions:,} behind"
        parts.append(f"{behind}, {lag.seconds:,.1f} s" if lag.completions and lag.seconds is not None else behind)
    line = Text("─ ", style="dim")
    for part in parts:
        line.append(*(part if isinstance(part, tuple) else (part,)))
        line.append("  ")
    line.append("Ctrl-C ends")
    return line
