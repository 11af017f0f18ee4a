"""The thread behind the blocking bridge: interrupted, cut off, and after fork."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time

import pytest

import ffcompletion as ffc
from tests import TESTS
from tests.doors.sync.blocking import Plain
from tests.worlds import ValkeyWorld, done
from tests.worlds.forking import Interpreter
from tests.worlds.proxy import Proxy

PROGRAM = TESTS / "programs" / "blocks.py"


async def test_not_from_a_coroutine() -> None:
    """It would block the loop that the coroutine runs on: said, not done."""
    backend = ffc.sync.connect("memory://")
    with pytest.raises(ffc.Unavailable, match="event loop"):
        backend.subscribe()
    await asyncio.to_thread(backend.close)


def _start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*Interpreter(), "-W", "error", str(PROGRAM), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_connection_that_is_cut(valkey_url: str) -> None:
    """A loop that blocks goes on by itself, and what finished meanwhile is delivered."""
    plain = Plain(ValkeyWorld(valkey_url))
    host, _, port = valkey_url.removeprefix("valkey://").partition(":")
    before, meanwhile = [done() for _ in range(5)], [done() for _ in range(5)]
    try:
        with (
            Proxy((host, int(port))) as proxy,
            ffc.sync.connect(f"valkey://127.0.0.1:{proxy.port}") as backend,
            backend.subscribe() as stream,
        ):
            plain.do(plain.world.announce(*before))
            assert [next(stream).execution_id for _ in before] == [item.execution_id for item in before]
            proxy.refuse()
            proxy.cut()
            for item in meanwhile:
                plain.do(plain.world.ends(item))
            again = threading.Timer(0.3, proxy.refuse, [False])
            again.start()
            assert {next(stream).execution_id for _ in meanwhile} == {item.execution_id for item in meanwhile}
            assert backend.stats().reconnects >= 1
            again.join()
    finally:
        plain.close()


@pytest.mark.parametrize("what", ["wait", "iterate"])
def test_ctrl_c(valkey_url: str, what: str) -> None:
    """At once, while it blocks; and the program ends cleanly."""
    process = _start(what, valkey_url)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "interrupted\n"), out
    assert time.monotonic() - began < 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(valkey_url: str) -> None:
    """The child is told; what it connects anew works there, and the parent goes on."""
    out, _ = _start("fork", valkey_url).communicate(timeout=30)
    assert out.split() == ["child:refused", "child:anew", "parent:ok"], out
