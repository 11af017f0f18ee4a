"""Dropped, cancelled, killed: nothing stays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend

ID = "{fp:7}:550e8400-e29b-41d4-a716-4466554400%02x"


def _until(what: object, seconds: float = 10.0) -> None:
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sync_streams_that_are_dropped_after_break_are_released() -> None:
    """Thirty loops that were left; each said so, and none is open afterwards. The backend is still open."""
    memory = MemoryBackend()
    with ffc.sync.Backend(memory) as backend:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for n in range(30):
                memory_stream = backend.subscribe(cursor=ffc.StreamCursor.beginning())
                memory.emit(ID % n)
                for _ in memory_stream:
                    break
                del memory_stream
            gc.collect()
            _until(lambda: memory.stats().streams == 0)
        assert sum(issubclass(item.category, ResourceWarning) for item in told) == 30
        with backend.subscribe() as stream:
            memory.emit(ID % 99)
            assert next(stream).execution_id == ID % 99
        assert memory.stats().streams == 0
        # Closed by hand, and then dropped: nothing to be told.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stream = backend.subscribe()
            stream.close()
            stream.close()
            del stream
            gc.collect()


def test_a_sync_stream_ends_for_a_thread_that_waits_in_it() -> None:
    """Closing the backend closes the streams that are still held."""
    memory = MemoryBackend()
    with ffc.sync.Backend(memory) as backend:
        stream = backend.subscribe()
    assert list(stream) == []
    assert memory.stats().streams == 0


OWNER = """
import sys, tempfile
from ffcompletion import embedded
# Which tries the folder out with a file, once.
tempfile.gettempdir()
print("begins", flush=True)
with embedded.{kind}() as server:
    print("ready", flush=True)
    sys.stdin.read()
"""


def _inside(folder: Path) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(entry.readlink()).startswith(str(folder)):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_a_server_whose_owner_is_killed_while_it_starts_leaves_nothing(
    kind: str, delay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at any moment of the start: no directory, no process."""
    tmp_path.chmod(0o711)
    for parent in tmp_path.parents:
        if parent.owner() == tmp_path.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(kind=kind)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == b"begins\n"
    time.sleep(delay)
    owner.kill()
    owner.wait(10)
    owner.stdout.close()
    owner.stdin.close()
    _until(lambda: not list(tmp_path.iterdir()) and not _inside(tmp_path), 30)
