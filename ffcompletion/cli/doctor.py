"""``doctor``: what was checked, what was found, what to do about it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffcompletion.cli.running import run
from ffcompletion.cli.showing import printable_lines
from ffcompletion.contract.diagnosis import Finding, Verdict, exit_status
from ffcompletion.contract.text import json_line
from ffcompletion.doctor import examine

__all__ = ["doctor"]

_COLOURS = {Verdict.OK: "green", Verdict.NOTE: "cyan", Verdict.WARNING: "yellow", Verdict.FAILURE: "bold red"}


def doctor(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Examine a server: what was checked, what was found, what to do about it. Changes nothing on it.

    Exit status: 0 all is well, 1 there are warnings, 2 it will not work. Takes ten seconds at most.
    """

    async def work() -> int:
        findings = await examine(url, schema=schema)
        status = exit_status(findings)
        if json:
            sys.stdout.write(json_line({"status": status, "findings": findings}) + "\n")
        else:
            _show(findings)
        return status

    run(work())


def _show(findings: list[Finding]) -> None:
    table = Table()
    for title in ("check", "", "found"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_COLOURS[finding.verdict])
        table.add_row(finding.check, verdict, Text(printable_lines(finding.found)))
    Console(highlight=False).print(table)
    # Outside of the table, where a long command stays in one piece and can be pasted.
    lines = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        if finding.remedy:
            lines.print(Text.assemble((finding.check, _COLOURS[finding.verdict]), ", what to do:"))
            lines.print(Text(f"  {printable_lines(finding.remedy)}"))
