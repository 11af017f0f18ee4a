"""``describe``: what the server has stored about an execution."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from ffcompletion.cli.running import opened, run
from ffcompletion.cli.showing import moment, printable
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.text import json_line

__all__ = ["describe"]

_UNKNOWN: Final = 1


def describe(
    url: Annotated[str, typer.Argument(help="valkey://…, valkeys://…, postgresql://…, or a libpq connection string.")],
    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution, {fp:N}:<uuid>.")],
    schema: Annotated[str | None, typer.Option(help="Postgres: the schema of the engine's tables.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what is stored about an execution: phase, outcome, tenant, flow, tags. Exit status 1 if it is unknown."""

    async def work() -> int:
        async with opened(url, schema) as backend:
            found = await backend.describe_execution(execution_id)
        if found is None:
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"ffcompletion: not found: {execution_id}", markup=False, style="yellow"
            )
            return _UNKNOWN
        if json:
            shown = {
                "execution_id": str(found.execution_id),
                "namespace": found.namespace,
                "flow_id": None if found.flow_id is None else str(found.flow_id),
                "lane": found.lane,
                "tags": dict(found.tags),
                "phase": found.phase,
                "terminal_outcome": found.terminal_outcome,
                "completed_at_ms": found.completed_at_ms,
            }
            sys.stdout.write(json_line(shown) + "\n")
        else:
            _show(found)
        return 0

    run(work())


def _show(found: ExecutionSnapshot) -> None:
    at_ms = found.completed_at_ms
    at = moment(at_ms)
    lines = {
        "execution": found.execution_id,
        "phase": found.phase,
        "outcome": found.terminal_outcome or "not finished",
        "finished": "" if not at_ms else f"{at_ms} ms" if at is None else f"{at:%Y-%m-%d %H:%M:%S %z}",
        "namespace": found.namespace,
        "flow": found.flow_id,
        "lane": found.lane,
        **{f"tag {key}": value for key, value in sorted(found.tags.items())},
    }
    console = Console(highlight=False, soft_wrap=True)
    for name, value in lines.items():
        if value:
            console.print(Text.assemble((f"{printable(name):<12}", "dim"), printable(str(value))))
