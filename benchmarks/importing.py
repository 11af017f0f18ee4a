"""What ``import ffcompletion`` costs, on top of starting Python."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.table import Row, median


def _once(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


async def run(_: str) -> list[Row]:
    bare = median([_once("pass") for _ in range(15)])
    ours = median([_once("import ffcompletion") for _ in range(15)])
    return [
        Row(
            what="import ffcompletion, over `python -c pass`, median of 15",
            ours=f"{(ours - bare) * 1000:.0f} ms",
            floor="60 ms",
            goal="40 ms",
        )
    ]
