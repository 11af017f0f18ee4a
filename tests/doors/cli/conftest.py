"""Fixtures of these tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["valkey", "postgres18"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found
