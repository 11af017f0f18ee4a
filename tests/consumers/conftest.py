"""Fixtures of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import ffcompletion as ffc


@pytest.fixture
def store(tmp_path: Path) -> ffc.FileCheckpoints:
    return ffc.FileCheckpoints(tmp_path / "position")
