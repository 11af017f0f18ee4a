"""The command line: on a terminal, piped, interrupted, and in trouble. Completions come from raw commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pexpect
import pytest

from tests.doors.cli.commands import FFC, psql


@pytest.mark.parametrize(
    "url",
    [
        "valkey://u:sEcReT@127.0.0.1:1",
        "postgresql://u:sEcReT@127.0.0.1:1/d",
        "nope://u:sEcReT@h",
        "valkey://127.0.0.1:x",
    ],
)
def test_trouble_is_one_line_and_status_2(url: str) -> None:
    """No traceback, no password."""
    done = subprocess.run([*FFC, "tail", url], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "sEcReT" not in done.stderr


def test_producers_show_and_install(valkey_url: str, postgres18_url: str) -> None:
    """The text; installing, twice; and beside the engine's own tables nothing is touched."""
    for kind, marker in (("postgres", "ff_emit_completion"), ("valkey", "#!lua name=ffcompletion")):
        done = subprocess.run([*FFC, "producers", "show", kind], capture_output=True, text=True, timeout=30, check=True)
        assert marker in done.stdout
    psql(postgres18_url, "DROP DATABASE IF EXISTS plain")
    psql(postgres18_url, "CREATE DATABASE plain")
    plain = postgres18_url.replace("/postgres?", "/plain?")
    for url in (valkey_url, plain, plain):
        done = subprocess.run(
            [*FFC, "producers", "install", url], capture_output=True, text=True, timeout=30, check=True
        )
        assert "ready" in done.stdout
    psql(postgres18_url, "DROP DATABASE plain")
    done = subprocess.run(
        [*FFC, "producers", "install", postgres18_url], capture_output=True, text=True, timeout=30, check=True
    )
    assert "nothing was changed" in done.stdout
    with pytest.raises(subprocess.CalledProcessError):
        psql(postgres18_url, "SELECT ff_emit_completion('{fp:7}:550e8400-e29b-41d4-a716-446655440000', 'success')")
    done = subprocess.run(
        [*FFC, "producers", "install", "memory://"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2


def test_demo_piped_sends_and_receives_the_same() -> None:
    """Both servers, plain lines, a summary in which nothing is missing."""
    done = subprocess.run([*FFC, "demo", "--seconds", "1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"announced (\d+), received (\d+), of another tenant 0", done.stdout)
    assert found is not None
    assert found[1] == found[2]
    assert int(found[1]) > 50
    assert "\x1b" not in done.stdout
    assert "acme" in done.stdout
    assert "globex" in done.stdout


def test_demo_on_a_terminal_is_live() -> None:
    """A table that moves, and the summary."""
    child = pexpect.spawn(
        FFC[0],
        [*FFC[1:], "demo", "--backend", "valkey", "--seconds", "1"],
        encoding="utf-8",
        timeout=30,
        dimensions=(40, 140),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.expect("per second")
    child.expect(r"announced \d+, received \d+")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_help_and_version() -> None:
    """Every command has its help."""
    for words in ([], ["tail"], ["wait"], ["demo"], ["producers"], ["producers", "install"]):
        done = subprocess.run([*FFC, *words, "--help"], capture_output=True, text=True, timeout=30, check=True)
        assert "Usage" in done.stdout
    plain = [sys.executable, "-m", "ffcompletion", "--version"]
    done = subprocess.run(plain, capture_output=True, text=True, timeout=30, check=True)
    assert re.fullmatch(r"ffcompletion \d+\.\d+\.\d+\n", done.stdout)
