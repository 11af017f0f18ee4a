"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend


@pytest.fixture
def backend() -> Iterator[tuple[ffc.sync.Backend, MemoryBackend]]:
    inner = ffc.connect("memory://")
    with ffc.sync.Backend(inner) as outer:
        yield outer, inner
