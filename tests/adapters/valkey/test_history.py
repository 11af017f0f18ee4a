"""A Valkey that has lost what it kept, while a stream is open: restarted without its data, or flushed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from tests.worlds import ValkeyWorld, done, eventually, first


@asynccontextmanager
async def _own_server() -> AsyncGenerator[tuple[embedded.Server, ValkeyWorld]]:
    with embedded.valkey() as server:
        async with ValkeyWorld(server.url) as world:
            yield server, world


async def test_a_server_that_was_restored_is_recognised(caplog: pytest.LogCaptureFixture) -> None:
    """Said once; what runs there again and ends again is told again, announced or in silence."""
    caplog.set_level(logging.INFO, "ffcompletion")
    async with _own_server() as (server, world):
        again, silent = done(), done(flow_id=None)

        def said() -> int:
            return sum("the server is another than before" in message for message in caplog.messages)

        async with world.backend(reconcile_interval=0.2, clock_skew=0.2) as backend, ffc.subscribe(backend) as stream:
            for restarts in (0, 1):
                if restarts:
                    server.kill()
                    await asyncio.to_thread(server.start)
                    await world.forget()
                    await eventually(lambda: said() == 1)
                    await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
                for item, silently in ((again, False), (silent, True)):
                    await world.begins(item)
                    await world.ends(item, silently=silently)
                    assert (await first(stream)).execution_id == item.execution_id
            await world.command("FLUSHALL")
            for item in (again, silent):
                await world.begins(item)
                await world.ends(item, silently=True)
                assert (await first(stream)).execution_id == item.execution_id
            # A connection that is cut is no other server.
            before = backend.stats().reconnects
            await world.drop_connections()
            await eventually(lambda: backend.stats().reconnects > before)
            await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
        assert said() == 1
