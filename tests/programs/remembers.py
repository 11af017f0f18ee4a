"""Writes down what it sees, then where it stands; begins where it stood. Meant to be killed."""

from __future__ import annotations

import asyncio
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


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
