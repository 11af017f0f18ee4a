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
from tests.chaos.poison import KEYS, POISON, Broken, poisoned_id, shard_of, tenant_of
from tests.worlds import FINISH

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
TOGETHER = 50
WRITERS = 4


def _finish(dice: random.Random, poison: float) -> list[str | bytes]:
    partition, bare = dice.randrange(256), str(uuid.UUID(int=dice.getrandbits(128)))
    broken: Broken | None = None
    if dice.random() < poison:
        kind = dice.randrange(len(KEYS))
        broken, bare = KEYS[kind], poisoned_id(dice, kind)
    execution_id = f"{{fp:{partition}}}:{bare}"
    tag = execution_id[: execution_id.index("}") + 1]
    luck = dice.random()
    flow = "" if luck < 0.1 else FLOW
    message: str | bytes = json.dumps({"flow_id": flow, "outcome": "success", "execution_id": execution_id})
    key = f"ff:exec:{tag}:{execution_id}"
    keys = ["4", f"{key}:core", f"{key}:tags", f"{key}:result", f"ff:idx:{tag}:lane:default:terminal"]
    tenant, shard = tenant_of(execution_id), shard_of(execution_id)
    message = message if luck >= 0.2 else ""
    if broken is not None:
        message = message if broken.message is None else broken.message
        return ["EVAL", POISON.replace("-- here", broken.lua), *keys, execution_id, flow, tenant, shard, message]
    return ["EVAL", FINISH, *keys, execution_id, flow, tenant, "success", "", message, "0", "shard", shard]


async def _write(url: str, dice: random.Random, end: float, per_second: float, poison: float) -> None:
    options = Options.from_url(url)
    client = None
    due = time.monotonic()
    while time.monotonic() < end:
        due = max(due, time.monotonic() - 5) + TOGETHER / per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            client = client or await make_client(options)
            await batch(client, [_finish(dice, poison) for _ in range(TOGETHER)])
        except (GlideError, OSError):
            if client is not None:
                await client.close()
            client = None
            await asyncio.sleep(0.1)


async def main(url: str, seed: int, seconds: float, per_second: float, poison: float) -> None:
    end = time.monotonic() + seconds
    dice = [random.Random(seed * 1000 + number) for number in range(WRITERS)]
    await asyncio.gather(*(_write(url, each, end, per_second / WRITERS, poison) for each in dice))


if __name__ == "__main__":
    _, url, seed, seconds, per_second, poison = sys.argv
    asyncio.run(main(url, int(seed), float(seconds), float(per_second), float(poison)))
