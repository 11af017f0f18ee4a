"""Installing the producer, and taking it away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

import ffcompletion as ffc
from ffcompletion.producers import completion_call, prune, uninstall
from tests.worlds import ValkeyWorld


async def test_uninstalling(producing: ValkeyWorld) -> None:
    """Twice; and then pruning says what to run."""
    id_ = ffc.ExecutionId.new()
    await producing.command(*completion_call(id_, "success"))
    assert "is gone" in await uninstall(producing.url)
    assert "nothing is installed" in await uninstall(producing.url)
    await asyncio.sleep(1.1)
    with pytest.raises(ffc.Unavailable, match="producers install"):
        await prune(producing.url, timedelta(0))
