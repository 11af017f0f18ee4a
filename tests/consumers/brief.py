"""What tests of waiting share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ffcompletion as ffc
from tests.worlds import World

UNKNOWN = "{fp:9}:550e8400-e29b-41d4-a716-446655440099"


async def soon(coroutine: Any, seconds: float = 30.0) -> Any:
    return await asyncio.wait_for(coroutine, seconds)


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ffcompletion")}


def brief(world: World) -> ffc.Backend:
    """A stream stays for the next wait but for a moment: for tests that wait for its end."""
    return world.backend(**({"linger": 0.1} if world.networked else {}))


class Listens:
    """Somebody's backend: no reader, one generator per stream."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ffc.CompletionPayload | None] = asyncio.Queue()

    async def subscribe_completions(self, /) -> AsyncIterator[ffc.CompletionPayload]:
        return self._stream()

    async def subscribe_completions_filtered(
        self, filter: ffc.CompletionFilter, /
    ) -> AsyncIterator[ffc.CompletionPayload]:
        raise ffc.Unavailable("subscribe_completions_filtered")

    async def _stream(self) -> AsyncIterator[ffc.CompletionPayload]:
        while (item := await self.queue.get()) is not None:
            yield item
