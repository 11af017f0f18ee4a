"""What takes long and is the same for every test: made once for a whole run, however many processes it has."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that whoever comes first fills, by ``make``; the others wait until it is done."""
    base = factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in the run's.
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


def wheel(factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built once."""
    (made,) = once(factory, "dist", build_wheel).glob("*.whl")
    return made


def build_wheel(folder: Path) -> None:
    """The package's wheel, in this folder."""
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
