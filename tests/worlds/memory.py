"""Temporary files in memory: what servers write in tests is thrown away, and a disk takes seconds for each."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30


def keep_temporary_files_in_memory() -> None:
    """For this process and those that it starts, where there is such a file system with room; not if TMPDIR is set."""
    if "TMPDIR" in os.environ or not _MEMORY.is_dir() or not os.access(_MEMORY, os.W_OK):
        return
    # As root a server is started from a copy of its programs, which lies there.
    if os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(_MEMORY).free < _ROOM:
        return
    # pytest keeps its own for longer than a run.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None
