"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from ffcompletion import __version__
from ffcompletion.cli.demo import run_demo
from ffcompletion.cli.tail import TailOptions, run_tail
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import FlowId
from ffcompletion.contract.payload import Outcome
from ffcompletion.producers import install, text

__all__ = ["app"]

app = typer.Typer(
    name="ffcompletion",
    help="Know that an execution has finished.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
producers = typer.Typer(help="The announcing side, for servers without FlowFabric.", no_args_is_help=True)
app.add_typer(producers, name="producers")

_TROUBLE = 2
_INTERRUPTED = 130


class _Which(StrEnum):
    VALKEY = "valkey"
    POSTGRES = "postgres"
    BOTH = "both"


class _Kind(StrEnum):
    POSTGRES = "postgres"
    VALKEY = "valkey"


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


def _run(work: Coroutine[object, object, int]) -> None:
    """Run to the end; trouble is one line on stderr and exit status 2, Ctrl-C is a clean end."""
    try:
        status = asyncio.run(work)
    except EngineError as exc:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"ffcompletion: {exc}", markup=False, style="red")
        raise typer.Exit(_TROUBLE) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    raise typer.Exit(status)


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
) -> None:
    """Show completions as they happen. Ctrl-C ends it; so do --count and --timeout."""

    async def work() -> int:
        wanted = ScannerFilter(namespace)
        if tag is not None:
            key, separator, value = tag.partition("=")
            if not separator:
                raise typer.BadParameter("--tag needs KEY=VALUE")
            wanted = wanted.with_instance_tag(key, value)
        options = TailOptions(
            filter=wanted,
            outcomes=frozenset(outcome or ()),
            flow=None if flow is None else FlowId(flow),
            count=count,
            timeout=timeout,
            schema=schema,
            json=json,
        )
        return await run_tail(url, options)

    _run(work())


@app.command()
def demo(
    backend: Annotated[_Which, typer.Option(help="Which servers to start.")] = _Which.BOTH,
    seconds: Annotated[float, typer.Option(min=1, help="How long the workload runs.")] = 10.0,
) -> None:
    """Start throw-away servers, run two tenants' workload on them, and show the completions arrive."""
    kinds = ("valkey", "postgres") if backend is _Which.BOTH else (backend.value,)
    _run(run_demo(kinds, seconds))


@producers.command("install")
def producers_install(
    url: Annotated[str, typer.Argument(help="The server to install on.")],
    schema: Annotated[str | None, typer.Option(help="Postgres: into this schema.")] = None,
) -> None:
    """Install the tables and the function (Postgres) or the function library (Valkey). Safe to run again."""

    async def work() -> int:
        typer.echo(await install(url, schema=schema))
        return 0

    _run(work())


@producers.command("show")
def producers_show(kind: Annotated[_Kind, typer.Argument(help="postgres or valkey.")]) -> None:
    """Print the text that `install` would run."""
    typer.echo(text(kind.value), nl=False)
