"""Executions that finish on Valkey, at a steady pace, in a process of its own; whatever fails, it goes on.

Of ten, eight are announced, one is solo, one ends in silence. An even id belongs to tenant a, an odd one to b.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid

from glide import GlideError

from ffcompletion.backends.valkey.connection import batch, make_client
from ffcompletion.backends.valkey.options import Options
from tests.worlds import FINISH

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
TOGETHER = 50
WRITERS = 4


def tenant_of(execution_id: str) -> str:
    """Written into the id, so that nothing that fails can change it."""
    return "ab"[int(execution_id[-1], 16) % 2]


def _finish(dice: random.Random) -> list[str]:
    execution_id = f"{{fp:{dice.randrange(256)}}}:{uuid.UUID(int=dice.getrandbits(128))}"
    tag = execution_id[: execution_id.index("}") + 1]
    kind = dice.random()
    flow = "" if kind < 0.1 else FLOW
    message = {"flow_id": flow, "outcome": "success", "execution_id": execution_id}
    key = f"ff:exec:{tag}:{execution_id}"
    return [
        "EVAL", FINISH, "4", f"{key}:core", f"{key}:tags", f"{key}:result", f"ff:idx:{tag}:lane:default:terminal",
        execution_id, flow, tenant_of(execution_id), "success", "", json.dumps(message) if kind >= 0.2 else "", "0",
    ]  # fmt: skip


async def _write(url: str, dice: random.Random, end: float, per_second: float) -> None:
    options = Options.from_url(url)
    client = None
    due = time.monotonic()
    while time.monotonic() < end:
        due = max(due, time.monotonic() - 5) + TOGETHER / per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            client = client or await make_client(options)
            await batch(client, [_finish(dice) for _ in range(TOGETHER)])
        except (GlideError, OSError):
            if client is not None:
                await client.close()
            client = None
            await asyncio.sleep(0.1)


async def main(url: str, seed: int, seconds: float, per_second: float) -> None:
    end = time.monotonic() + seconds
    dice = [random.Random(seed * 1000 + number) for number in range(WRITERS)]
    await asyncio.gather(*(_write(url, each, end, per_second / WRITERS) for each in dice))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
