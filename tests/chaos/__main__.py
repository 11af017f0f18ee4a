"""``python -m tests.chaos --minutes N``: the long profile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from tests.chaos.defects import DEFECTS, seeded
from tests.chaos.postgres import run_chaos
from tests.chaos.valkey import run_valkey_chaos
from tests.chaos.valkey_cluster import run_cluster_chaos

Run = Coroutine[Any, Any, tuple[bool, str]]


def _run(server: str, given: argparse.Namespace) -> Run:
    seconds, poison = given.minutes * 60, given.poison
    if server == "valkey":
        return run_valkey_chaos(seconds, given.seed, given.rate, poison=poison)
    if server == "cluster":
        return run_cluster_chaos(seconds, given.seed, given.rate, poison)
    version = int(server.removeprefix("postgres"))
    # The one in a database that takes any bytes, the other in UTF8.
    return run_chaos(version, seconds, given.seed + version, given.pause, poison, any_bytes=version == 16)


async def _all(runs: list[Run]) -> bool:
    results = await asyncio.gather(*runs)
    for _, report in results:
        print(report, flush=True)
    return all(sound for sound, _ in results)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    servers = ["postgres16", "postgres18", "valkey", "cluster"]
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(servers)}; all, if none is named")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between a Postgres writer's transactions")
    parser.add_argument("--rate", type=float, default=1000.0, help="completions per second on Valkey")
    parser.add_argument("--poison", type=float, default=0.001, help="which part of the records is poisoned")
    parser.add_argument("--defect", choices=sorted(DEFECTS), help="break the library first, to see that it is noticed")
    given = parser.parse_args()
    if unknown := set(given.servers) - set(servers):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)
    chosen = given.servers or servers
    with seeded(given.defect) if given.defect else contextlib.nullcontext():
        sound = asyncio.run(_all([_run(server, given) for server in chosen]))
    sys.exit(0 if sound else 1)


main()
