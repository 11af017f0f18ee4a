"""Servers that only tests need: a streaming replica."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from ffcompletion.embedded import Server


def standby_of(primary: Server) -> Server:
    """A streaming replica of an embedded Postgres, made with the same installation's pg_basebackup."""
    program, user = Path(primary._command[0]), primary._user
    directory = Path(tempfile.mkdtemp(prefix="ffcompletion-pg-"))
    if user is not None:
        shutil.chown(directory, user)
        directory.chmod(0o711)
    backup = [str(program.with_name("pg_basebackup")), "-D", str(directory / "data"), "-R", "-c", "fast", "--no-sync"]
    subprocess.run(
        [*backup, "-h", str(primary.directory), "-U", "postgres"],
        check=True, capture_output=True, cwd=directory, user=user, extra_groups=[] if user else None, timeout=60,
    )  # fmt: skip
    old, new = str(primary.directory), str(directory)
    # The program itself may lie below the primary's directory, and stays there.
    command = [str(program), *(word.replace(old, new) for word in primary._command[1:])]
    return Server("postgres", primary.url.replace(old, new), directory, command, signal.SIGINT, user).start()
