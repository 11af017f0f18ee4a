"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from ffcompletion import __version__
from ffcompletion.cli import attaching
from ffcompletion.cli.board import board
from ffcompletion.cli.checkpoints import checkpoints
from ffcompletion.cli.demo import run_demo
from ffcompletion.cli.describe import describe
from ffcompletion.cli.doctor import doctor
from ffcompletion.cli.producing import producers
from ffcompletion.cli.running import run
from ffcompletion.cli.status import status
from ffcompletion.cli.tail import TailOptions, run_tail
from ffcompletion.cli.wait import WaitOptions, run_wait
from ffcompletion.consumers.subscribing import MOST_PARTITIONS
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import FlowId
from ffcompletion.contract.payload import Outcome

__all__ = ["app", "partitions_of"]

_SHARE: Final = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")
_ROW: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

app: typer.Typer = typer.Typer(
    name="ffcompletion",
    help="Know that an execution has finished.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(producers, name="producers")
app.add_typer(checkpoints, name="checkpoints")
attaching.register(app)

app.command()(board)
app.command()(doctor)
app.command()(describe)
app.command()(status)


class _Which(StrEnum):
    VALKEY = "valkey"
    POSTGRES = "postgres"
    BOTH = "both"


class _Missing(StrEnum):
    ERROR = "error"
    WAIT = "wait"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ffcompletion {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    # The library logs one line per change of state; drivers' own retries are not news.
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("psycopg").setLevel(logging.ERROR)


@app.command()
def tail(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    namespace: Annotated[str | None, typer.Option(metavar="NS", help="Only this tenant's.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only those with this tag.")] = None,
    outcome: Annotated[list[Outcome] | None, typer.Option(help="Only these outcomes; may be repeated.")] = None,
    flow: Annotated[str | None, typer.Option(metavar="ID", help="Only this flow's.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="Stop after so many seconds.")] = None,
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="No lines: a table of outcomes alone.")] = False,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="CURSOR", help="Where to begin: `beginning`, or a cursor from --json."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Go on where the last run with this file stopped."),
    ] = None,
    attached: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the jobs attached under this name, by their keys.")
    ] = None,
    result: Annotated[bool, typer.Option("--result", help="Show the stored results too.")] = False,
    partitions: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="Only these: `0-63,70`, or `1/4`, the second of four workers' share."),
    ] = None,
) -> None:
    """Show completions as they happen. Ctrl-C ends it; so do --count and --timeout."""

    async def work() -> int:
        if summary and json:
            raise typer.BadParameter("--summary is for people: leave --json out")
        wanted = ScannerFilter(namespace)
        if tag is not None:
            key, separator, value = tag.partition("=")
            if not separator:
                raise typer.BadParameter("--tag needs KEY=VALUE")
            wanted = wanted.with_instance_tag(key, value)
        if attached is not None:
            if tag is not None:
                raise typer.BadParameter("--attached is a filter by tag itself: leave --tag out")
            wanted = wanted.with_instance_tag("attachment", attached)
        options = TailOptions(
            filter=wanted,
            outcomes=frozenset(outcome or ()),
            flow=None if flow is None else FlowId(flow),
            count=count,
            timeout=timeout,
            schema=schema,
            json=json,
            summary=summary,
            start=_cursor(start),
            checkpoint=checkpoint,
            attached=attached,
            results=result,
            partitions=None if partitions is None else partitions_of(partitions),
        )
        return await run_tail(url, options)

    run(work())


def partitions_of(text: str) -> Collection[int]:
    """``1/4``: the second of four shares; else numbers and ranges, ends included, between commas."""
    if (share := _SHARE.fullmatch(text)) is not None:
        worker, workers = map(int, share.groups())
        if worker < workers:
            return range(worker, MOST_PARTITIONS, workers)
        raise typer.BadParameter("--partitions I/N: I is from 0 to N - 1")
    found: set[int] = set()
    for part in text.split(","):
        if (row := _ROW.fullmatch(part.strip())) is None:
            raise typer.BadParameter("--partitions needs numbers and ranges (0-63,70), or I/N")
        first, last = int(row[1]), int(row[2] or row[1])
        if last >= MOST_PARTITIONS:
            raise typer.BadParameter(f"--partitions are below {MOST_PARTITIONS}")
        found.update(range(first, last + 1))
    return found


def _cursor(text: str | None) -> StreamCursor | None:
    if text is None:
        return None
    return StreamCursor.beginning() if text == "beginning" else StreamCursor.from_text(text)


@app.command()
def wait(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Executions, {fp:N}:<uuid>; with --attached, keys.")],
    any_: Annotated[bool, typer.Option("--any/--all", help="The first that finishes will do.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="Give up after so many seconds.")] = None,
    result: Annotated[bool, typer.Option("--result", help="Write the stored result to stdout.")] = False,
    missing: Annotated[_Missing, typer.Option(help="What an unknown id means.")] = _Missing.ERROR,
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
    attached: Annotated[str | None, typer.Option(metavar="NAME", help="The IDs are keys of jobs attached so.")] = None,
) -> None:
    """Wait until executions have finished, whether or not they have already.

    Exit status: 0 success, 1 failed, cancelled, expired or skipped, 124 time-out, 2 trouble.
    """

    async def work() -> int:
        if result and not json and not any_ and len(ids) > 1:
            raise typer.BadParameter("--result with several IDs needs --json or --any")
        options = WaitOptions(
            any=any_, timeout=timeout, result=result, missing=missing.value, schema=schema, json=json, attached=attached
        )
        return await run_wait(url, ids, options)

    run(work())


@app.command()
def demo(
    backend: Annotated[_Which, typer.Option(help="Which servers to start.")] = _Which.BOTH,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long the workload runs: 10, or an hour with --board.")
    ] = None,
    board: Annotated[bool, typer.Option("--board", help="Show them on a web page too.")] = False,
) -> None:
    """Start throw-away servers, run two tenants' workload on them, and show the completions arrive."""
    kinds = ("valkey", "postgres") if backend is _Which.BOTH else (backend.value,)
    run(run_demo(kinds, seconds or (3_600.0 if board else 10.0), board=board))
