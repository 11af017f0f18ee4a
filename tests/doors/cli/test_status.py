"""``status``: what no program's own counters can tell, on both servers."""

from __future__ import annotations

import pytest

from tests.doors.cli.commands import run


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "memory://"])
def test_trouble_is_one_line(url: str) -> None:
    """Nobody there, or nothing to look at from outside: exit status 2."""
    answer = run(url)
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (2, 1), answer.stderr
