"""DBOS workflows, awaited from another process without polling: this one need not even import DBOS.

ffcompletion attach postgresql://localhost/app dbos
python -m examples.jobs_dbos postgresql://localhost/app nightly-1 nightly-2
"""

from __future__ import annotations

import asyncio
import sys

import ffcompletion as ffc


async def main(url: str, *workflow_ids: str) -> None:
    wanted = {str(ffc.attached_id("dbos", workflow_id)): workflow_id for workflow_id in workflow_ids}
    async with ffc.connect(url) as backend:
        # Workflows that nobody has started yet are waited for as well.
        async for done in ffc.as_completed(backend, list(wanted), timeout=60, missing="wait"):
            print(wanted[done.execution_id], done.outcome, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
