"""``python -m tests.chaos --minutes N``: the long profile."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from tests.chaos.postgres import run_chaos
from tests.chaos.valkey import run_valkey_chaos
from tests.chaos.valkey_cluster import run_cluster_chaos

Run = Coroutine[Any, Any, tuple[bool, str]]


def _run(server: str, seconds: float, seed: int, pause_s: float, per_second: float) -> Run:
    if server == "valkey":
        return run_valkey_chaos(seconds, seed, per_second)
    if server == "cluster":
        return run_cluster_chaos(seconds, seed, per_second)
    version = int(server.removeprefix("postgres"))
    return run_chaos(version, seconds, seed + version, pause_s)


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
    given = parser.parse_args()
    if unknown := set(given.servers) - set(servers):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)
    chosen = given.servers or servers
    runs = [_run(server, given.minutes * 60, given.seed, given.pause, given.rate) for server in chosen]
    sys.exit(0 if asyncio.run(_all(runs)) else 1)


main()
