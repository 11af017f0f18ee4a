"""``attach``, ``attached``, ``detach``: any table of jobs as a source."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ffcompletion import attaching
from ffcompletion.attaching import Definition, attach_sql, detach_sql, load_preset, preset, preset_names
from ffcompletion.cli.running import run_plainly
from ffcompletion.cli.showing import printable

__all__ = ["register"]

_Url = Annotated[str, typer.Argument(help="postgresql://…, or a libpq connection string.")]
_Schema = Annotated[str | None, typer.Option(help="Where our tables are, or are to be.")]
_Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")]
_Pairs = list[str] | None
_NEEDED: Final = (
    f"a preset ({', '.join(preset_names())}), --preset-file, or all of --name, --table, --key, --state and --outcome are"
    " needed; missing:"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("attach")(_attach)
    app.command("attached")(_attached)
    app.command("detach")(_detach)


def _attach(
    url: _Url,
    preset_name: Annotated[
        str | None, typer.Argument(metavar="[PRESET]", help=f"One of {', '.join(preset_names())}.")
    ] = None,
    preset_file: Annotated[Path | None, typer.Option(dir_okay=False, help="A preset of your own, in TOML.")] = None,
    name: Annotated[str | None, typer.Option(help="The attachment's name: part of every id.")] = None,
    table: Annotated[str | None, typer.Option(help="TABLE or SCHEMA.TABLE.")] = None,
    key: Annotated[str | None, typer.Option(metavar="COLUMN", help="Unique and never null.")] = None,
    state: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    outcome: Annotated[_Pairs, typer.Option(metavar="STATE=OUTCOME", help="What has finished; repeated.")] = None,
    pending: Annotated[_Pairs, typer.Option(metavar="STATE", help="What has not finished; repeated.")] = None,
    deleted: Annotated[
        _Pairs, typer.Option(metavar="STATE=OUTCOME", help="An unfinished job is deleted; `*` for other states.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(metavar="COLUMN", help="The tenant.")] = None,
    flow: Annotated[str | None, typer.Option(metavar="COLUMN", help="Jobs with the same value are one flow.")] = None,
    result: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    error: Annotated[str | None, typer.Option(metavar="COLUMN", help="The result of what did not succeed.")] = None,
    tag: Annotated[_Pairs, typer.Option(metavar="TAG=COLUMN", help="A tag; repeated.")] = None,
    result_table: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Where results and errors are, if in another table.")
    ] = None,
    result_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its column with the job's key, if named otherwise.")
    ] = None,
    history: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A row for each change of state; the newest by this column.")
    ] = None,
    schema: _Schema = None,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Record what is in the table already.")] = True,
    sql: _Sql = False,
) -> None:
    """Make a table of jobs a source: its rows are executions, announced inside the transaction that finishes them.

    Run again, it announces ends that its triggers have missed; --name alone attaches again what is attached under it.
    """
    given: dict[str, object] = {
        "name": name, "table": table, "key": key, "state": state, "namespace": namespace, "flow": flow,
        "result": result, "error": error, "history": history, "pending": pending,
        "result_table": result_table, "result_key": result_key,
        "outcomes": _pairs("--outcome", outcome), "deleted": _pairs("--deleted", deleted), "tags": _pairs("--tag", tag),
    }  # fmt: skip
    changes = {field: value for field, value in given.items() if value is not None}

    def work() -> int:
        if preset_name is None and preset_file is None and set(changes) == {"name"}:
            definition = _known(url, schema, str(name))
        else:
            definition = _definition(preset_name, preset_file, changes)
        if sql:
            typer.echo(attach_sql(definition, schema=schema or "public"), nl=False)
            return 0
        try:
            found = _with_progress(url, definition, schema, record)
        except KeyboardInterrupt:
            typer.echo("ffcompletion: interrupted; run again, it records what is missing", err=True)
            raise
        typer.echo(
            f"{definition.table} is attached as {definition.name}"
            + (f"; {found.jobs} jobs that were there have been recorded" if record else "")
            + (f"; {found.missed} ends that had been missed have been announced" if found.missed else "")
        )
        return 0

    run_plainly(work)


def _attached(url: _Url, schema: _Schema = None) -> None:
    """Show what is attached: name, table, whether its triggers work, how many jobs are known and have finished."""

    def work() -> int:
        found = attaching.attached(url, schema=schema)
        for each in found:
            name = f"--name {shlex.quote(each.definition.name)}"
            working = "working" if each.working else f"NOT WORKING: attach it again ({name}, and the URL as here)"
            typer.echo(
                f"{printable(each.definition.name)}\t{printable(each.definition.table)}\t{working}\t{each.jobs} jobs,"
                f" {each.finished} finished"
            )
        if not found:
            Console(stderr=True, highlight=False).print("nothing is attached", style="dim")
        return 0

    run_plainly(work)


def _detach(
    url: _Url,
    name: Annotated[str, typer.Argument(help="The attachment's name.")],
    schema: _Schema = None,
    sql: _Sql = False,
) -> None:
    """Undo an attachment: triggers, function, and what was recorded. The table itself is as it was before."""

    def work() -> int:
        if sql:
            inside = schema or "public"
            there = {each.definition.name: each.definition for each in attaching.attached(url, schema=inside)}
            if name not in there:
                from ffcompletion.attaching import naming  # noqa: PLC0415  # loads the driver

                raise naming.not_attached(name, there)
            typer.echo(detach_sql(there[name], schema=inside), nl=False)
            return 0
        attaching.detach(url, name, schema=schema)
        typer.echo(f"{name} is detached")
        return 0

    run_plainly(work)


def _known(url: str, schema: str | None, name: str) -> Definition:
    there = {each.definition.name: each.definition for each in attaching.attached(url, schema=schema)}
    if name not in there:
        listed = f"only {', '.join(there)}" if there else "nothing is"
        raise typer.BadParameter(
            f"{name!r} is not attached here, {listed}; {_NEEDED} --key, --outcome, --state, --table"
        )
    return there[name]


def _definition(name: str | None, file: Path | None, changes: dict[str, object]) -> Definition:
    if name is not None and file is not None:
        raise typer.BadParameter("a preset or --preset-file, not both")
    if file is not None:
        return load_preset(file, **changes)
    if name is not None:
        return preset(name, **changes)
    options = {"outcomes": "outcome", "table": "table", "name": "name", "key": "key", "state": "state"}
    if missing := [f"--{option}" for field, option in options.items() if field not in changes]:
        raise typer.BadParameter(f"{_NEEDED} {', '.join(sorted(missing))}")
    return preset(None, **changes)


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    pairs: dict[str, str] = {}
    for text in given:
        left, separator, right = text.rpartition("=")
        if not separator:
            raise typer.BadParameter(f"{option} needs NAME=VALUE, not {text!r}")
        pairs[left] = right
    return pairs


def _with_progress(url: str, definition: Definition, schema: str | None, record: bool) -> attaching.Recorded:
    console = Console(stderr=True)
    if not (console.is_terminal and record and sys.stderr.isatty()):
        return attaching.attach(url, definition, schema=schema, record=record)
    columns = (TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("recording", total=None)
        return attaching.attach(
            url,
            definition,
            schema=schema,
            progress=lambda done, about: bar.update(task, completed=done, total=about),
        )
