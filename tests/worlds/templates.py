"""Postgres clusters from a template: with the engine's tables one costs seconds to make, and a moment to unpack."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg

from ffcompletion import embedded
from ffcompletion.embedded import Server
from tests import TESTS
from tests.worlds.temporary import run_folder

# As many partitions as the engine makes. Each session that reads them all pays for each of them, so what is not about their
# number has fewer.
ENGINE_PARTITIONS = 256
FEW_PARTITIONS = 4
ENGINE_SQL = (TESTS / "data" / "engine.sql").read_text()
# Beside pytest's own cache, and ignored by git as that is.
CACHE = TESTS.parent / ".pytest_cache" / "postgres"


def _engine_sql(partitions: int) -> str:
    return ENGINE_SQL.replace("MODULUS 256", f"MODULUS {partitions}").replace("0..255", f"0..{partitions - 1}")


def engine_schema(url: str, partitions: int = ENGINE_PARTITIONS) -> None:
    """The engine's tables, as tests write them."""
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.execute("SELECT to_regclass('ff_completion_event')").fetchone() == (None,):
            conn.execute(_engine_sql(partitions).encode())


def postgres(*options: str, version: int = 18, partitions: int = FEW_PARTITIONS, port: int = 5432) -> Server:
    """``embedded.postgres`` with the engine's tables, from a template that the first caller makes."""
    return embedded._postgres(partial(_unpack, version, partitions), options, version, port, _placed)


def _unpack(version: int, partitions: int, _install: Path, directory: Path, user: str | None) -> None:
    # As root each file keeps its owner, who is the one that the server runs as.
    subprocess.run(["tar", "-xf", str(_template(version, partitions))], cwd=directory, check=True)
    if user is not None:
        shutil.chown(directory / "data", user)


def _template(version: int, partitions: int) -> Path:
    """An archive for this wheel, this user and these tables; made once, however many processes want it."""
    wheel = embedded.postgres_program("postgres", version)
    facts = f"{wheel} {wheel.stat().st_mtime_ns} {os.getuid()} {_engine_sql(partitions)}"
    path = CACHE / f"{version}-{partitions}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.tar"
    with _once(path) as wanted:
        if wanted:
            with embedded.postgres(version=version) as server:
                engine_schema(server.url, partitions)
                server.stop()
                # Most of a new cluster is one segment of empty log.
                program = str(Path(server._command[0]).with_name("pg_resetwal"))
                reset = [program, "--wal-segsize=1", str(server.directory / "data")]
                user = server._user
                subprocess.run(
                    reset, check=True, capture_output=True, cwd=server.directory, user=user,
                    extra_groups=[] if user else None,
                )  # fmt: skip
                # Under its own name only when it is whole.
                half = path.with_suffix(".half")
                subprocess.run(["tar", "-cf", str(half), "data"], cwd=server.directory, check=True)
                half.rename(path)
    return path


def _placed(install: Path, directory: Path, user: str | None) -> Path:
    """Where the wheel is out of the reach of the server's user: one copy for all servers of a run."""
    run = run_folder()
    if user is None or run is None or embedded._reachable(install) or not embedded._reachable(run):
        return embedded._placed(install, directory, user)
    shutil.chown(directory, user)
    directory.chmod(0o711)
    site = run / f"site-{install.name}"
    with _once(site) as wanted:
        if wanted:
            half = site.with_suffix(".half")
            embedded._copied(install, half)
            half.rename(site)
    return site / install.parent.name / install.name


@contextlib.contextmanager
def _once(path: Path) -> Iterator[bool]:
    """Whether it is still to be made, while nobody else makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()
