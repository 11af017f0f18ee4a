"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ffcompletion.producers import install, text
from tests.worlds import ValkeyWorld


@pytest.fixture(scope="module", params=[16, 18], ids=["postgres16", "postgres18"])
def produced(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with our producers alone."""
    server = request.getfixturevalue(f"postgres{request.param}_url")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS producers_postgres WITH (FORCE)")
        admin.execute("CREATE DATABASE producers_postgres")
        made = make_conninfo(server, dbname="producers_postgres")
        with psycopg.connect(made, autocommit=True) as conn:
            conn.execute(text("postgres").encode())
        yield made
        admin.execute("DROP DATABASE producers_postgres WITH (FORCE)")


@pytest.fixture
def url(produced: str) -> str:
    """The same, empty."""
    with psycopg.connect(produced, autocommit=True) as conn:
        conn.execute("DELETE FROM ff_exec_core")
        conn.execute("DELETE FROM ff_completion_event")
    return produced


@pytest.fixture
async def producing(valkey: ValkeyWorld) -> ValkeyWorld:
    await install(valkey.url)
    return valkey
