"""A table of jobs in the database of a module's own ``server``, for the tests of attaching."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.worlds.attaching import TABLE, clean


@pytest.fixture
def url(server: str) -> str:
    """With nothing attached, and no jobs."""
    clean(server)
    return server


@pytest.fixture
def conn(url: str) -> Iterator[psycopg.Connection]:
    """With the table, empty."""
    with psycopg.connect(url, autocommit=True) as made:
        made.execute(TABLE)
        yield made
