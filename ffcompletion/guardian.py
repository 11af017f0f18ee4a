"""The guardian of a throw-away server: a small process that cleans up when whoever started it dies without a word."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["dismiss", "guard", "guarded"]

# Reads until its parent is gone; a line means "all is well, leave". Sessions of its own: Ctrl-C does not reach it.
_GUARDIAN: Final = """
import os, shutil, signal, sys, time
folder, pids = sys.argv[1], []
for line in sys.stdin:
    word, _, value = line.strip().partition(" ")
    if word == "pid": pids = [int(value)]
    if word == "done": sys.exit()
def inside():
    # Started, and not told of any more.
    found = []
    for pid in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if not pid.isdigit(): continue
            at = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
            if (at + "/").startswith(folder + "/"): found.append(int(pid))
        except OSError: pass
    return found
for sign, patience in ((int(sys.argv[2]), 3.0), (signal.SIGKILL, 2.0)):
    end = time.monotonic() + patience
    for pid in pids:
        try: os.kill(pid, sign)
        except OSError: continue
        while time.monotonic() < end:
            try: os.kill(pid, 0)
            except OSError: break
            time.sleep(0.02)
# So many times, not so many seconds: on a busy disk once may take longer than any deadline.
for attempt in range(200):
    for pid in inside():
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.exists(folder) and not inside(): break
    time.sleep(0.05)
"""


def guard(directory: Path, stop_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """The guardian of a directory that need not exist yet: whatever happens to this process, it goes."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(directory), str(int(stop_signal))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def guarded(prefix: str, stop_signal: signal.Signals) -> tuple[Path, subprocess.Popen[bytes]]:
    """A new directory, and its guardian, which was there first."""
    # Resolved, because processes are found by the directory they work in.
    directory = Path(tempfile.gettempdir()).resolve() / f"{prefix}{secrets.token_hex(6)}"
    guardian = guard(directory, stop_signal)
    directory.mkdir(mode=0o700)
    return directory, guardian


def dismiss(directory: Path, guardian: subprocess.Popen[bytes]) -> None:
    """Nothing came of it. The guardian sees its pipe closed, and tidies up."""
    if guardian.stdin is not None:
        guardian.stdin.close()
    guardian.wait()
    shutil.rmtree(directory, ignore_errors=True)
