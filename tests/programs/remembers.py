"""Writes down what it sees, then where it stands; begins where it stood. Meant to be killed."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import ffcompletion as ffc


async def main(url: str, folder: Path) -> None:
    stored = folder / "cursor"
    cursor = ffc.StreamCursor.from_text(stored.read_text()) if stored.exists() else ffc.StreamCursor.beginning()
    with (folder / "seen").open("a") as seen:
        async with ffc.connect(url) as backend, ffc.subscribe(backend, cursor=cursor) as stream:
            async for completion in stream:
                seen.write(f"{completion.execution_id}\n")
                seen.flush()
                if completion.cursor is not None:
                    fresh = folder / "cursor.new"
                    fresh.write_text(str(completion.cursor))
                    fresh.replace(stored)


async def checkpointed(url: str, folder: Path, concurrency: int, tenant: str | None) -> None:
    """The same by the library's own means, with several in work at once if so asked."""
    store = ffc.FileCheckpoints(folder / "checkpoint")
    wanted = None if tenant is None else ffc.ScannerFilter(tenant)
    with (folder / "seen").open("a") as seen:

        async def handle(completion: ffc.CompletionPayload) -> None:
            if concurrency > 1:
                await asyncio.sleep(0.01 * random.random())
            seen.write(f"{completion.execution_id}\n")
            seen.flush()

        async with ffc.connect(url) as backend:
            beginning = ffc.StreamCursor.beginning()
            async with ffc.checkpointed(backend, store, "a", wanted, start=beginning) as completions:
                if concurrency > 1:
                    await completions.run(handle, concurrency=concurrency)
                async for completion in completions:
                    await handle(completion)


if len(sys.argv) > 3:
    given = dict(enumerate(sys.argv))
    asyncio.run(checkpointed(given[1], Path(given[2]), int(given[3]), given.get(4)))
else:
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
