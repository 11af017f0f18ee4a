"""What is particular to a server is tried on the engine's tables as they are."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def postgres18_url(engine18_url: str) -> str:
    return engine18_url
