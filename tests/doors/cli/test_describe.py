"""``describe``: what is stored, for people and programs; what is unknown is exit status 1, trouble is 2."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.doors.cli.commands import FFC, E, announce


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FFC, "describe", *words], capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("server", ["valkey_url", "postgres18_url"])
def test_what_is_stored_is_shown(server: str, request: pytest.FixtureRequest) -> None:
    """On both servers alike; control characters never reach the terminal."""
    url: str = request.getfixturevalue(server)
    announce(url, 4711, "failed", tenant="ten\\u001bant" if "postgres" in server else "ten\x1bant")
    told = run(url, E % 4711, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["execution_id"], found["terminal_outcome"]) == (E % 4711, "failed")
    assert "result" not in found
    shown = run(url, E % 4711)
    assert shown.returncode == 0
    assert "failed" in shown.stdout
    assert "\x1b" not in shown.stdout
    unknown = run(url, E % 9998)
    assert (unknown.returncode, "not found" in unknown.stderr) == (1, True)
    bad = run(url, "nonsense")
    assert (bad.returncode, len(bad.stderr.splitlines())) == (2, 1)
