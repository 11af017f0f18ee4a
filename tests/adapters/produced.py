"""A Postgres with our producer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg

from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import ValkeyWorld


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[tuple[PostgresBackend, psycopg.AsyncConnection]]:
    async with PostgresBackend(url) as backend, await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        yield backend, conn


async def all_keys(world: ValkeyWorld) -> dict[bytes, object]:
    names = await world.command("KEYS", "ff:*")
    assert isinstance(names, list)
    return {name: await world.command("DUMP", name) for name in sorted(names)}
