"""One folder for a run's temporary files: in memory where there is room, and gone at the end, with all that is in it.

What servers write in tests is thrown away, and a disk takes seconds for each of them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ffcompletion import embedded

_MEMORY = Path("/dev/shm")
_ROOM = 3 << 30
_RUN = "FFCOMPLETION_TEST_RUN_FOLDER"
_PREFIX = "ffcompletion-run-"


def begin_run() -> None:
    """For this process and all that it starts, those of pytest-xdist too."""
    if _RUN in os.environ:
        return
    usual = tempfile.gettempdir()
    base = Path(usual) if "TMPDIR" in os.environ or not _fits(_MEMORY) else _MEMORY
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    # Started as root, a server runs as somebody else.
    folder.chmod(0o711)
    # pytest keeps its own for longer than a run.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)
    os.environ[_RUN] = os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    atexit.register(_end_run, folder, os.getpid())


def run_folder() -> Path | None:
    """The run's folder; None where tests' servers are used outside of one."""
    return Path(os.environ[_RUN]) if _RUN in os.environ else None


def left_behind() -> list[str]:
    """What of ours is still there: directories of servers, and processes that work in one. Nothing, at the end of a run."""
    if (run := run_folder()) is None:
        return []
    folders = [folder.name for folder in run.glob("ffcompletion-*")]
    working = {os.fsdecode(each) for each in embedded._working_directories()}
    return sorted({*folders, *(each for each in working if each.startswith(f"{run.resolve()}/"))})


def keep_bytecode() -> None:
    """Where it is not written by default, each process that tests start would compile the whole package anew."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _fits(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    # Programs are copied there, for a server that runs as somebody else.
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC and shutil.disk_usage(folder).free >= _ROOM


def _end_run(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """What runs have left that were killed."""
    for folder in base.glob(f"{_PREFIX}*-*"):
        try:
            os.kill(int(folder.name.removeprefix(_PREFIX).split("-")[0]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
