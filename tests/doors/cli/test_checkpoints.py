"""``checkpoints show`` and ``reset``: of files and of tables, and never while a consumer has the name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresCheckpoints
from tests.doors.cli.commands import FFC
from tests.worlds import PostgresWorld, done, some


def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FFC, "checkpoints", *words], capture_output=True, text=True, timeout=60, check=False, input=given
    )


async def test_in_a_table(postgres: PostgresWorld) -> None:
    """Shown by name and position; looking makes no table; one that is leased stays; then its consumer begins anew."""
    assert run("show", postgres.url, "--table", "nowhere").stdout == ""
    assert await postgres.sql("SELECT to_regclass('nowhere')") == [(None,)]
    await postgres.announce(*(done() for _ in range(3)))
    async with postgres.backend() as backend, PostgresCheckpoints(postgres.url, table="kept") as store:
        for name in ("mailer", "biller"):
            tenant = ffc.ScannerFilter.NOOP if name == "mailer" else ffc.ScannerFilter("acme")
            async with ffc.checkpointed(
                backend, store, name, tenant, start=ffc.StreamCursor.beginning(), lease="raise"
            ) as completions:
                if name == "mailer":
                    await some(completions, 3)
                    await completions.commit()
                refused = run("reset", postgres.url, name, "--table", "kept", "--yes")
                assert (refused.returncode, "another consumer runs" in refused.stderr) == (2, True)
        shown = [
            json.loads(line) for line in run("show", postgres.url, "--table", "kept", "--json").stdout.splitlines()
        ]
        assert [each["name"] for each in shown] == ["biller", "mailer"]
        ((newest,),) = await postgres.sql("SELECT max(event_id) FROM ff_completion_event")
        assert shown[1]["event_id"] == newest
        assert "acme" in shown[0]["selection"]
        assert "mailer" in run("show", postgres.url, "--table", "kept").stdout
        gone = run("reset", postgres.url, "mailer", "--table", "kept", given="y\n")
        assert gone.returncode == 0, gone.stderr
        assert await store.load("mailer") is None
        assert await store.load("biller") is not None
    assert run("reset", postgres.url, "mailer", "--table", "kept", "--yes").returncode == 2
    await postgres.sql("DROP TABLE kept")


async def test_in_a_file(tmp_path: Path) -> None:
    """Asked before it is forgotten; another name is refused; one that is leased stays."""
    # No conninfo, for all its name.
    path = tmp_path / "a=b"
    assert run("show", str(path)).stdout == ""
    async with MemoryBackend() as backend:
        async with ffc.checkpointed(backend, ffc.FileCheckpoints(path), "mailer", lease="raise") as completions:
            backend.emit(done().execution_id)
            await anext(completions)
            await completions.commit()
            refused = run("reset", str(path), "mailer", "--yes")
            assert (refused.returncode, path.exists()) == (2, True)
    (shown,) = [json.loads(line) for line in run("show", str(path), "--json").stdout.splitlines()]
    assert (shown["name"], shown["backend"]) == ("mailer", "stream")
    assert run("reset", str(path), "biller", "--yes").returncode == 2
    assert (run("reset", str(path), "mailer", given="n\n").returncode, path.exists()) == (1, True)
    assert (run("reset", str(path), "mailer", given="y\n").returncode, path.exists()) == (0, False)
    assert run("reset", str(path), "mailer", "--yes").returncode == 2


def test_a_file_that_is_damaged_is_said_so(tmp_path: Path) -> None:
    """And stays as it is."""
    path = tmp_path / "position"
    path.write_text("{nonsense", encoding="utf-8")
    shown = run("show", str(path))
    assert (shown.returncode, "damaged" in shown.stderr) == (2, True)
    assert path.read_text(encoding="utf-8") == "{nonsense"
