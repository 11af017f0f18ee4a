"""One version of Postgres."""

from __future__ import annotations

import pytest

from tests.conftest import postgres_world

postgres = pytest.fixture(params=[18], ids=["postgres18"])(postgres_world)
