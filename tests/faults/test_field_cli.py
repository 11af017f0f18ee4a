"""The command line where the server is away, or nobody can read what it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ffcompletion import embedded

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"


def run(*words: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ffcompletion", *words],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize("command", ["tail", "wait"])
@pytest.mark.parametrize("url", ["valkey://127.0.0.1:{}", "postgresql://postgres@127.0.0.1:{}/postgres"])
def test_a_server_that_is_not_there_is_trouble(command: str, url: str) -> None:
    """Status 2 and one line, whatever the time-out; never "0 completions"."""
    words = [command, url.format(embedded.free_port()), *([ID] if command == "wait" else []), "--timeout", "1"]
    done = run(*words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "0 completions" not in done.stderr
    assert "127.0.0.1" in done.stderr or "known" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("words", [["--help"], ["producers", "show", "postgres"], ["--version"]])
def test_output_that_cannot_be_written(words: list[str]) -> None:
    """A full disk: one line, status 2. A reader that has gone: silence, as a shell expects."""
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = run(*words, stdout=full)
        assert done.returncode == 2
        assert done.stderr.strip() == "ffcompletion: No space left on device"
    read, write = os.pipe()
    os.close(read)
    done = run(*words, stdout=write)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 141)


@pytest.mark.parametrize("words", [["--help"], ["tail", "--help"], ["wait", "--help"], ["producers", "--help"]])
def test_help_under_an_ascii_locale(words: list[str]) -> None:
    """Readable everywhere: what the encoding lacks is written in a plain form."""
    done = run(*words, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "ffcompletion" in done.stdout
    assert done.stdout.isascii()
