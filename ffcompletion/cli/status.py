"""``status``: what a server holds of completions now, which no program's own counters can tell."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from ffcompletion.cli.running import run
from ffcompletion.cli.showing import printable
from ffcompletion.contract.text import json_line
from ffcompletion.status import look

__all__ = ["status"]


def status(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a server holds now: newest id and cursor, rows, who holds the watermark, lanes, who listens.

    Changes nothing. Exit status 2 where the server cannot be asked; `doctor` then says why.
    """

    async def work() -> int:
        found = await look(url, schema=schema)
        if json:
            sys.stdout.write(json_line(found) + "\n")
        else:
            _show(found)
        return 0

    run(work())


def _show(found: Mapping[str, object]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, value in found.items():
        label = name.replace("_", " ")
        many = cast("Sequence[object]", value) if isinstance(value, list) else [value]
        for each in many or ["none"]:
            console.print(Text.assemble((f"{label:<20}", "dim"), printable(_text(each))))


def _text(value: object) -> str:
    if value is None:
        return "not to be seen, or none"
    if isinstance(value, dict):
        told = cast("Mapping[str, object]", value)
        return ", ".join(f"{name} {item}" for name, item in told.items() if item not in (None, ""))
    return str(value)
