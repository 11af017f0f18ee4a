"""The command line where the server is away, or nobody can read what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest

from ffcompletion import embedded
from tests.doors.cli.commands import FFC, announce
from tests.worlds.proxy import Proxy

# What an interpreter does with its environment is the subject of some.
PLAIN = [sys.executable, "-m", "ffcompletion"]

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"


def run(*words: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(PLAIN if env else FFC), *words],
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


@pytest.mark.parametrize("kind", ["valkey", "postgres18"])
def test_tail_says_when_it_is_live_again(kind: str, request: pytest.FixtureRequest) -> None:
    """The server goes away and comes back: both are said, once each, and completions are shown again."""
    url: str = request.getfixturevalue(f"{kind}_url")
    host, _, port = url.removeprefix("valkey://").partition(":")
    socket = str(psycopg.conninfo.conninfo_to_dict(url).get("host")) + "/.s.PGSQL.5432" if kind != "valkey" else ""
    with Proxy(socket or (host, int(port))) as proxy:
        scheme, path = ("valkey://", "") if kind == "valkey" else ("postgresql://postgres@", "/postgres")
        words = [*FFC, "tail", f"{scheme}127.0.0.1:{proxy.port}{path}", "--json"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        shown, said = Lines(process.stdout), Lines(process.stderr)
        shown.expect("execution_id", lambda: announce(url, 41))
        proxy.refuse()
        proxy.cut()
        said.expect("reconnecting")
        proxy.refuse(False)
        said.expect("is live again")
        shown.expect("550e8400-e29b-41d4-a716-446655440042", lambda: announce(url, 42))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        shown.close()
        said.close()
    assert [line for line in said.lines if "again" in line] == [f"ffcompletion: {kind.rstrip('18')} is live again"]
    assert sum(": reconnecting" in line for line in said.lines) == 1


class Lines:
    """What a program writes, as it comes."""

    def __init__(self, pipe: IO[str] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            self.lines.append(line.rstrip("\n"))  # as they come

    def expect(self, text: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until a line has it."""
        end = time.monotonic() + 30
        while not any(text in line for line in self.lines):
            assert time.monotonic() < end, self.lines
            meanwhile()
            time.sleep(0.05)

    def close(self) -> None:
        self._thread.join(10)
        self._pipe.close()
