"""``checkpoints``: where consumers stand, shown, and forgotten so that they begin anew."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.text import Text

from ffcompletion.cli.running import run
from ffcompletion.cli.showing import printable
from ffcompletion.consumers.checkpoints import FileCheckpoints
from ffcompletion.contract.checkpoint import StoredCheckpoint
from ffcompletion.contract.errors import NotFound, Unavailable, Validation
from ffcompletion.contract.text import json_line
from ffcompletion.urls import is_url, scheme_of

__all__ = ["checkpoints"]

checkpoints: typer.Typer = typer.Typer(help="Where consumers stand: in a file, or in a table.", no_args_is_help=True)

_Where = Annotated[str, typer.Argument(help="A file, or the postgresql://… URL of the database with the table.")]
_Table = Annotated[str, typer.Option(help="Postgres: the table.")]
_Schema = Annotated[str | None, typer.Option(help="Postgres: the table's schema.")]
_TABLE = "ffcompletion_checkpoint"


class _Store(Protocol):
    async def stored(self) -> Sequence[StoredCheckpoint]: ...

    async def forget(self, name: str, /) -> bool: ...


class _File:
    def __init__(self, path: str) -> None:
        self._file = FileCheckpoints(path)

    async def stored(self) -> Sequence[StoredCheckpoint]:
        return await self._file.stored()

    async def forget(self, name: str, /) -> bool:
        found = await self._file.stored()
        if found and found[0].name != name:
            raise Validation("name", f"the file holds the checkpoint of {found[0].name!r}")
        return await self._file.remove()


@checkpoints.command("show")
def show(
    where: _Where,
    table: _Table = _TABLE,
    schema: _Schema = None,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
) -> None:
    """Show each consumer's position, what it is a position in, and since when. Changes nothing."""

    async def work() -> int:
        async with _opened(where, table, schema) as store:
            found = await store.stored()
        for each in found:
            line = _line(each)
            if json:
                sys.stdout.write(json_line(line) + "\n")
            else:
                _print(line)
        if not found:
            Console(stderr=True, highlight=False).print("no checkpoint is stored there", style="dim")
        return 0

    run(work())


@checkpoints.command("reset")
def reset(
    where: _Where,
    name: Annotated[str, typer.Argument(help="The consumer's name, as `show` has it.")],
    table: _Table = _TABLE,
    schema: _Schema = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget a consumer's position: its next start begins where its program's `start` says. Stop it first.

    Refused while a consumer has leased the name. Exit status 2 where there is no such checkpoint.
    """
    if not yes:
        typer.confirm(f"Forget where {printable(name)!r} stands?", abort=True)

    async def work() -> int:
        async with _opened(where, table, schema) as store:
            if not await store.forget(name):
                raise NotFound(f"checkpoint {name}")
        typer.echo(f"{printable(name)} is forgotten")
        return 0

    run(work())


@asynccontextmanager
async def _opened(where: str, table: str, schema: str | None) -> AsyncGenerator[_Store]:
    if not is_url(where):
        yield _File(where)
        return
    if scheme_of(where) != "postgres":
        raise Validation("url", "checkpoints are kept in files and in Postgres")
    try:
        from ffcompletion.backends.postgres import PostgresCheckpoints  # noqa: PLC0415  # loads the driver
    except ImportError as exc:
        raise Unavailable("checkpoints", f"{exc.name} is not installed; pip install 'ffcompletion[postgres]'") from exc

    async with PostgresCheckpoints(where, table=table, schema=schema) as store:
        yield store


def _line(each: StoredCheckpoint) -> Mapping[str, object]:
    position = each.checkpoint
    return {
        "name": each.name,
        "cursor": position.cursor.to_text(),
        "event_id": position.cursor.event_id,
        "backend": position.backend,
        "selection": position.selection,
        "saved_at": each.saved_at.isoformat(timespec="seconds"),
    }


def _print(line: Mapping[str, object]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, value in line.items():
        if value not in (None, ""):
            console.print(Text.assemble((f"{name:<10}", "dim"), printable(str(value))))
