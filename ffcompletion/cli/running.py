"""From a command's coroutine to an exit status."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Final

import typer
from rich.console import Console
from typing_extensions import Unpack

from ffcompletion.cli.showing import printable_lines
from ffcompletion.contract.errors import EngineError, Validation
from ffcompletion.contract.protocols import Backend
from ffcompletion.options import ConnectOptions
from ffcompletion.urls import connect, scheme_of

__all__ = ["check_attached", "duration", "opened", "run", "run_plainly"]

_TROUBLE: Final = 2
_INTERRUPTED: Final = 130
_NOBODY_READS: Final = 141
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)?")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def run(work: Coroutine[object, object, int]) -> None:
    """Run to the end; trouble is one line on stderr and exit status 2, Ctrl-C is a clean end."""
    run_plainly(lambda: asyncio.run(work))


def run_plainly(work: Callable[[], int]) -> None:
    """The same, of work that blocks: in this thread, which Ctrl-C interrupts; no other thread hears of it."""
    try:
        status = work()
    except EngineError as exc:
        said = printable_lines(str(exc))
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"ffcompletion: {said}", markup=False, style="red")
        raise typer.Exit(_TROUBLE) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read has had enough, and everybody knows how that is reported.
        raise typer.Exit(_NOBODY_READS) from None
    raise typer.Exit(status)


def duration(text: str | timedelta) -> timedelta:
    """``90s``, ``15m``, ``24h``, ``7d``; a number alone is seconds. Raises ``BadParameter``."""
    if isinstance(text, timedelta):
        # An option's own default.
        return text
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 15m, 24h or 7d")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


def opened(url: str, schema: str | None, /, **options: Unpack[ConnectOptions]) -> Backend:
    """The backend at a URL. The schema is a Postgres's; of others there is none."""
    if schema and scheme_of(url) == "postgres":
        options["schema"] = schema
    return connect(url, **options)


async def check_attached(url: str, name: str, schema: str | None) -> None:
    """Raises ``NotFound`` where nothing is attached under this name, ``Validation`` where nothing can be."""
    if scheme_of(url) != "postgres":
        raise Validation("attached", "tables of jobs are in Postgres: postgresql://…")
    from ffcompletion.attaching import naming  # noqa: PLC0415  # loads the driver

    await naming.check_attached(url, name, schema=schema)
