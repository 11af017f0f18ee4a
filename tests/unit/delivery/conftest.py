"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from tests.unit.delivery.faked import Server


@pytest.fixture
def server() -> Server:
    return Server()
