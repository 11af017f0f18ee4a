"""What several modules share: a Postgres that may be restarted and whose roles have passwords."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import pytest

from ffcompletion.embedded import Server
from tests.worlds import PostgresWorld
from tests.worlds.servers import postgres_with_passwords


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Each test leaves it running, and with the roles that it came with."""
    with postgres_with_passwords() as made:
        yield made


@pytest.fixture
async def own(server: Server) -> AsyncGenerator[PostgresWorld]:
    """Its world, empty."""
    async with PostgresWorld(18, server.url) as made:
        await made.reset()
        yield made
