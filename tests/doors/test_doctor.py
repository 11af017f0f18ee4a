"""The doctor, before servers in the very condition that each check is for; the remedy is pasted, and helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import ffcompletion as ffc
from ffcompletion.contract.diagnosis import exit_status
from ffcompletion.doctor import examine
from tests.adapters.examined import FAILURE

pytestmark = pytest.mark.timeout(150)


@asynccontextmanager
async def mute() -> AsyncGenerator[int]:
    """Accepts, and never says a word."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in writers:
        writer.close()
    server.close()


@pytest.mark.parametrize("scheme", ["valkey", "postgresql"])
async def test_a_mute_server_is_given_up_in_time(scheme: str) -> None:
    """Within ten seconds, and it is said what that may mean."""
    async with mute() as port:
        async with asyncio.timeout(10):
            (it,) = await examine(f"{scheme}://127.0.0.1:{port}")
    assert it.verdict is FAILURE
    assert "does not answer" in it.remedy


async def test_memory_has_nothing_to_examine() -> None:
    """And a URL that cannot be raises."""
    assert exit_status(await examine("memory://")) == 0
    with pytest.raises(ffc.Validation):
        await examine("nonsense")
