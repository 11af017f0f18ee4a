"""``python -m tests.chaos --minutes N``: the long profile."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from tests.chaos.postgres import run_chaos


async def _all(versions: list[int], seconds: float, seed: int, pause_s: float) -> bool:
    results = await asyncio.gather(*(run_chaos(version, seconds, seed + version, pause_s) for version in versions))
    for _, report in results:
        print(report, flush=True)
    return all(sound for sound, _ in results)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--versions", type=int, nargs="+", default=[16, 18])
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between a writer's transactions, on average")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.exit(0 if asyncio.run(_all(given.versions, given.minutes * 60, given.seed, given.pause)) else 1)


main()
