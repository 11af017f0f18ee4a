"""Subscribe, fork, and try to go on in the child."""

from __future__ import annotations

import asyncio
import os
import sys

import ffcompletion as ffc


async def main(url: str) -> None:
    backend = ffc.connect(url)
    stream = await backend.subscribe_completions()
    child = os.fork()
    if child == 0:
        answer = "accepted"
        try:
            stream.__anext__().send(None)
        except ffc.Unavailable as exc:
            answer = "refused" if "fork" in str(exc) else str(exc)
        print(f"child:{answer}", flush=True)
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    await stream.aclose()
    await backend.aclose()
    print("parent:ok", flush=True)


asyncio.run(main(sys.argv[1]))
