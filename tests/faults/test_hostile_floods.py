"""Notifications without end, which any role may send: the reader's own echo waits behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend, echoes, supervisor
from ffcompletion.backends.postgres.session import Session
from tests.worlds import PostgresWorld, done, eventually, first

DEADLINE_S = 0.3


@asynccontextmanager
async def flood(postgres: PostgresWorld) -> AsyncGenerator[None]:
    async def send() -> None:
        async with await postgres.connect() as conn:
            while True:
                await conn.execute("NOTIFY ff_completion, '1'")
                await asyncio.sleep(DEADLINE_S / 10)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.wait([sending])


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether echoes wait behind everything else: not empty."""
    waiting: list[bool] = []
    echo = Session.echo

    async def sent(self: Session, nonce: LiteralString) -> bool:
        return True if waiting else await echo(self, nonce)

    monkeypatch.setattr(Session, "echo", sent)
    monkeypatch.setattr(echoes, "_ECHO_EVERY_S", 0.1)
    for module in (echoes, supervisor):
        monkeypatch.setattr(module, "ECHO_DEADLINE_S", DEADLINE_S)
    return waiting


async def test_an_echo_that_waits_behind_others_is_no_dead_listener(
    postgres: PostgresWorld, held_up: list[bool]
) -> None:
    """While anything is heard it stays; when nothing is, it is given up as ever."""
    async with PostgresBackend(postgres.url, poll_interval=30) as backend, ffc.subscribe(backend) as stream:
        async with flood(postgres):
            held_up.append(True)
            await asyncio.sleep(5 * DEADLINE_S)
            assert backend.stats().reconnects == 0
            await postgres.announce(item := done())
            assert (await first(stream)).execution_id == item.execution_id
        await eventually(lambda: backend.stats().reconnects)
        held_up.clear()
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)


async def test_a_first_echo_that_waits_behind_others_is_no_pooler(postgres: PostgresWorld, held_up: list[bool]) -> None:
    """What is heard proves that LISTEN hears."""
    held_up.append(True)
    async with flood(postgres), PostgresBackend(postgres.url) as backend, ffc.subscribe(backend):
        assert backend.stats().state is ffc.BackendState.LIVE
