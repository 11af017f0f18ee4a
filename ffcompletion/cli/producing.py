"""``producers``: the announcing side on a server, from installing to uninstalling."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from ffcompletion.cli.running import duration, run
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.producers import RETENTION, install, prune, text, uninstall

__all__ = ["producers"]

producers: typer.Typer = typer.Typer(help="The announcing side, for servers without FlowFabric.", no_args_is_help=True)


class _Kind(StrEnum):
    POSTGRES = "postgres"
    POSTGRES_PLAIN = "postgres-plain"
    VALKEY = "valkey"


_Schema = Annotated[str | None, typer.Option(help="Postgres: in this schema.")]
_Retention = Annotated[
    timedelta,
    typer.Option(parser=duration, metavar="AGE", help="Valkey: how long what has finished is kept; 0 is for ever."),
]


@producers.command("install")
def producers_install(
    url: Annotated[str, typer.Argument(help="The server to install on.")],
    schema: _Schema = None,
    retention: _Retention = RETENTION,
) -> None:
    """Install the tables and the functions (Postgres) or the function library (Valkey). Safe to run again."""

    async def work() -> int:
        typer.echo(await install(url, schema=schema, retention=retention))
        return 0

    run(work())


@producers.command("show")
def producers_show(
    kind: Annotated[_Kind, typer.Argument(help="postgres or valkey; postgres-plain: moving old tables over.")],
    retention: _Retention = RETENTION,
) -> None:
    """Print the text that `install` would run; postgres-plain: the script that makes partitioned tables plain."""
    typer.echo(text(kind.value, retention=retention), nl=False)


@producers.command("new-id")
def producers_new_id(
    flow: Annotated[str | None, typer.Option(metavar="ID", help="In the partition of this flow.")] = None,
) -> None:
    """Print a new execution id."""

    async def work() -> int:
        typer.echo(ExecutionId.new(flow))
        return 0

    run(work())


@producers.command("prune")
def producers_prune(
    url: Annotated[str, typer.Argument(help="The server to prune.")],
    older_than: Annotated[
        timedelta, typer.Option(parser=duration, metavar="AGE", help="What finished longer ago than that.")
    ],
    unfinished: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="AGE", help="And what began longer ago than that and never finished."),
    ] = None,
    schema: _Schema = None,
    lane: Annotated[list[str] | None, typer.Option(help="Valkey: the lanes written to; may be repeated.")] = None,
) -> None:
    """Remove what is older: 90s, 15m, 24h, 7d. Cursors older than what is left expire loudly."""

    async def work() -> int:
        removed = await prune(url, older_than, unfinished=unfinished, schema=schema, lanes=lane or ("default",))
        typer.echo(f"{removed} removed")
        return 0

    run(work())


@producers.command("uninstall")
def producers_uninstall(
    url: Annotated[str, typer.Argument(help="The server to uninstall from.")],
    schema: _Schema = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what `install` made; on Postgres also what was recorded. Beside FlowFabric's own tables nothing is touched."""
    if not yes:
        typer.confirm("Remove the producer, and on Postgres everything that it recorded?", abort=True)

    async def work() -> int:
        typer.echo(await uninstall(url, schema=schema))
        return 0

    run(work())
