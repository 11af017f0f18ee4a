"""Postgres clusters from a template: with the engine's tables one costs seconds to make, and a moment to unpack."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import psycopg

from ffcompletion import embedded
from ffcompletion.embedded import Server
from tests import TESTS

ENGINE_SQL = (TESTS / "data" / "engine.sql").read_text()
# Beside pytest's own cache, and ignored by git as that is.
CACHE = TESTS.parent / ".pytest_cache" / "postgres"


def engine_schema(url: str) -> None:
    """The engine's tables, as tests write them."""
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.execute("SELECT to_regclass('ff_completion_event')").fetchone() == (None,):
            conn.execute(ENGINE_SQL.encode())


def postgres(*options: str, version: int = 18) -> Server:
    """``embedded.postgres`` with the engine's tables, from a template that the first caller makes."""
    return embedded._postgres(partial(_unpack, version), options, version)


def _unpack(version: int, _install: Path, directory: Path, user: str | None) -> None:
    with _template(version).open("rb") as archive:
        # As root each file keeps its owner, who is the one that the server runs as.
        subprocess.run(["tar", "-xzf", "-"], stdin=archive, cwd=directory, check=True)
    if user is not None:
        shutil.chown(directory / "data", user)


def _template(version: int) -> Path:
    """An archive for this wheel, this user and these tables; made once, however many processes want it."""
    program = embedded.postgres_program("postgres", version)
    facts = f"{program} {program.stat().st_mtime_ns} {os.getuid()} {ENGINE_SQL}"
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{version}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.tar.gz"
    with (CACHE / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with embedded.postgres(version=version) as server:
                engine_schema(server.url)
                server.stop()
                # Under its own name only when it is whole. Quickly packed rather than small.
                half = path.with_suffix(".half")
                pack = ["tar", "--use-compress-program", "gzip -1", "-cf", str(half), "data"]
                subprocess.run(pack, cwd=server.directory, check=True)
                half.rename(path)
    return path
