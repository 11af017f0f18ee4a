"""The third-party backend of the examples, held against the contract under faults, and run as a program."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from ffcompletion import embedded
from ffcompletion.backends.valkey.connection import batch, make_client
from ffcompletion.backends.valkey.options import Options as ValkeyOptions
from ffcompletion.embedded import Server
from ffcompletion.testing import BackendContract, Execution, Options, Subject, fresh
from tests import ROOT
from tests.worlds.forking import Interpreter
from tests.worlds.proxy import Proxy

PROGRAM = ROOT / "examples" / "streams_backend.py"


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("streams_backend", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _World:
    """The producer's side, and the faults."""

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy
        self.client: Any = None

    async def announce(self, *executions: Execution) -> None:
        self.client = self.client or await make_client(ValkeyOptions.from_url(self.server.url))
        commands: list[list[str]] = []
        for item in executions:
            words = ["XADD", "jobs:done", "*", "id", item.execution_id, "outcome", item.outcome]
            words += ["flow", item.flow_id] if item.flow_id else []
            words += ["namespace", item.namespace] if item.namespace is not None else []
            commands.append([*words, "tags", json.dumps(dict(item.tags))])
        for reply in await batch(self.client, commands):
            assert not isinstance(reply, Exception), reply

    async def connections(self) -> int:
        listed = await self.client.custom_command(["CLIENT", "LIST"])
        return listed.decode().count("lib-name=") - 1 if self.client else 0

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def mute(self) -> None:
        self.proxy.freeze()

    async def unmute(self) -> None:
        self.proxy.cut()
        self.proxy.thaw()

    async def restart(self) -> None:
        self.server.kill()
        await asyncio.to_thread(self.server.start)
        await self.close()

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with embedded.valkey("--appendonly", "yes") as made:
        yield made


@pytest.mark.timeout(120)
class TestStreamsBackend(BackendContract):
    @pytest.fixture
    def backend_contract(self, server: Server) -> Callable[[], AbstractAsyncContextManager[Subject]]:
        module = _module()
        port = int(server.url.rpartition(":")[2])

        @asynccontextmanager
        async def subject() -> AsyncGenerator[Subject]:
            with Proxy(("127.0.0.1", port)) as proxy:
                world = _World(server, proxy)
                try:
                    await world.announce(fresh())
                    yield Subject(
                        lambda: module.JobStreamsBackend("127.0.0.1", proxy.port),
                        world,
                        Options(
                            faults=world,
                            unreachable=lambda: module.JobStreamsBackend("127.0.0.1", 1),
                            connections=world.connections,
                            flood=1_200,
                        ),
                    )
                finally:
                    await world.close()

        return subject


async def test_it_runs_as_a_program(server: Server) -> None:
    """As its first lines say."""
    port = server.url.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *Interpreter(), str(PROGRAM), "127.0.0.1", port, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"listening\n"
    with Proxy(("127.0.0.1", int(port))) as proxy:
        world = _World(server, proxy)
        item = fresh()
        await world.announce(item)
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.decode() == f"{item.execution_id} success\n"
        await world.close()
    process.kill()
    await process.communicate()
