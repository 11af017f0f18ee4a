"""Embedded servers stop surely: after the block, after an error, after a crash of their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffcompletion import embedded
from ffcompletion.contract.errors import Unavailable

OWNER = """
import signal, sys, time
# A shell that runs things in the background has SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from ffcompletion import embedded
with embedded.{kind}() as server:
    print(server.pid, server.directory, flush=True)
    time.sleep(60)
"""


def _gone(pid: int, directory: Path) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return not directory.exists()
    return False


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_server_does_not_outlive_its_owner(kind: str, sign: signal.Signals) -> None:
    """Killed without a word, or interrupted: process and directory are gone within seconds."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(kind=kind)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    pid, directory = owner.stdout.readline().split()
    owner.send_signal(sign)
    owner.wait(10)
    owner.stdout.close()
    end = time.monotonic() + 10
    while not _gone(int(pid), Path(directory)):
        assert time.monotonic() < end, "the server outlived its owner"
        time.sleep(0.02)


def test_a_server_that_cannot_start_says_why() -> None:
    """The log's end is in the error, and nothing is left behind."""
    with pytest.raises(Unavailable, match="did not start"):
        embedded.valkey("--no-such-option", "x")
    with pytest.raises(Unavailable, match="no version 9"):
        embedded.postgres(version=9)


def test_restart_keeps_address_and_says_its_state() -> None:
    """Stop, start, kill, start, close twice."""
    with embedded.valkey() as server:
        url = server.url
        server.stop()
        with pytest.raises(Unavailable, match="stopped"):
            _ = server.pid
        server.start()
        server.kill()
        server.start()
        assert (server.url, server.pid > 0) == (url, True)
    server.close()
    assert not server.directory.exists()
