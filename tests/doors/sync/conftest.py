"""Fixtures of these tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.doors.sync.blocking import Plain
from tests.worlds import MemoryWorld, PostgresWorld, ValkeyWorld


@pytest.fixture(params=["memory", "valkey", "postgres18"])
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    kind: str = request.param
    if kind == "memory":
        made = Plain(MemoryWorld())
    elif kind == "valkey":
        made = Plain(ValkeyWorld(request.getfixturevalue("valkey_url")))
    else:
        made = Plain(PostgresWorld(int(kind[8:]), request.getfixturevalue(f"{kind}_url")))
    yield made
    made.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "ffcompletion-sync"]
