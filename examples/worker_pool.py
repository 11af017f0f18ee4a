"""Workers that share a tenant's completions: each process takes its partitions, and several completions at once.

    python examples/worker_pool.py postgresql://localhost/app tenant-a --worker 0 --of 2 --state .
    python examples/worker_pool.py postgresql://localhost/app tenant-a --worker 1 --of 2 --state .

Kill any of them; started again, it goes on where it stopped. Change ``--of``, and the old checkpoints are refused,
because they say nothing about the new shares.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

import ffcompletion as ffc


async def handle(completion: ffc.CompletionPayload) -> None:
    """Whatever is to be done; it may be done twice after a crash."""
    await asyncio.sleep(0.01)
    print(f"{completion.execution_id} {completion.outcome}", flush=True)


async def work(url: str, tenant: str, worker: int, workers: int, state: Path) -> None:
    store = ffc.FileCheckpoints(state / f"worker-{worker}.checkpoint")
    async with (
        ffc.connect(url) as backend,
        ffc.checkpointed(
            backend,
            store,
            "worker-pool",
            ffc.ScannerFilter(tenant),
            start=ffc.StreamCursor.beginning(),
            partitions=range(worker, 65_536, workers),
        ) as completions,
    ):
        # What is in hand is finished, the position is stored, and `run` returns.
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, completions.stop)
        await completions.run(handle, concurrency=8)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    parser = argparse.ArgumentParser(description="One worker of a pool.")
    parser.add_argument("url")
    parser.add_argument("tenant")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--state", type=Path, default=Path())
    given = parser.parse_args()
    asyncio.run(work(given.url, given.tenant, given.worker, given.of, given.state))
