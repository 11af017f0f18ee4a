"""Every code block in the README and the other documents runs, against real servers."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.producers import text as producer
from tests import ROOT
from tests.doors.cli.commands import announce, psql
from tests.worlds.forking import Interpreter

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The newcomer's two commands, which install into an environment of their own: `.ci/run` runs them.
COMMANDS = ["pip install -e '.[demo]'\nffcompletion demo\n", "pip install -e '.[dev]'\npytest -n 6 --dist worksteal\n"]


def _blocks(*languages: str) -> list[object]:
    found: list[object] = []
    for document in DOCUMENTS:
        # A reader's session from its first line to its last: `test_jobs_guide` runs it.
        if document.name == "jobs.md":
            continue
        for number, (language, text) in enumerate(BLOCK.findall(document.read_text(encoding="utf-8")), 1):
            if language in languages and text not in COMMANDS:
                found.append(pytest.param(text, id=f"{document.name}-{number}"))
    return found


@pytest.fixture(scope="module")
def urls(valkey_url: str, postgres18_url: str) -> dict[str, str]:
    return {"valkey://localhost:6379": valkey_url, "postgresql://localhost/app": postgres18_url}


@pytest.fixture
def _traffic(urls: dict[str, str]) -> Iterator[None]:
    """Something to read, on both servers, all the while."""
    ended = threading.Event()

    def finish() -> None:
        for url in urls.values():
            announce(url, 99, tenant="tenant-a")

    def run() -> None:
        while not ended.wait(0.1):
            finish()

    # A wait finds an execution that is known.
    finish()
    thread = threading.Thread(target=run)
    thread.start()
    yield
    ended.set()
    thread.join()


def _here(text: str, urls: dict[str, str]) -> str:
    for shown, real in urls.items():
        text = text.replace(shown, real)
    return text


@pytest.mark.usefixtures("_traffic")
@pytest.mark.parametrize("text", _blocks("python"))
def test_python_blocks_run(text: str, urls: dict[str, str]) -> None:
    """As a program, warnings being errors."""
    program = _here(text, urls)
    done = subprocess.run(
        [*Interpreter(), "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_traffic")
@pytest.mark.parametrize("text", _blocks("sh", "bash", "console"))
def test_shell_blocks_run(text: str, urls: dict[str, str]) -> None:
    """Line by line; the tables of the engine are there, so installing producers changes nothing."""
    for line in _here(text, urls).strip().splitlines():
        command = line.replace("ffcompletion", " ".join(Interpreter("-m", "ffcompletion")), 1)
        done = subprocess.run(
            ["bash", "-c", command.replace("?host", "\\?host").replace("&port", "\\&port")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", _blocks("sql"))
def test_sql_blocks_run(text: str, urls: dict[str, str]) -> None:
    """On a database with our producer."""
    url = urls["postgresql://localhost/app"]
    psql(url, "DROP DATABASE IF EXISTS documents")
    psql(url, "CREATE DATABASE documents")
    database = url.replace("/postgres?", "/documents?")
    psql(database, producer("postgres"))
    psql(database, text)
    psql(url, "DROP DATABASE documents")


async def test_a_worker_needs_no_more_than_the_rights_that_are_named(urls: dict[str, str]) -> None:
    """The block of the operations page, for a role of its own; it may create nothing, and its position is kept."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = [
        block for language, block in BLOCK.findall(text) if language == "sql" and "ffcompletion_checkpoint" in block
    ]
    url = urls["postgresql://localhost/app"]
    psql(url, "DROP DATABASE IF EXISTS rights")
    psql(url, "CREATE DATABASE rights")
    database = url.replace("/postgres?", "/rights?")
    psql(database, producer("postgres"))
    psql(database, "DROP ROLE IF EXISTS rights_worker")
    psql(database, block.replace("worker", "rights_worker"))
    ids = [ffc.ExecutionId.new() for _ in range(2)]
    for id_ in ids:
        psql(database, f"SELECT ff_emit_completion('{id_}', 'success')")
    mine = database.replace("postgres@", "rights_worker@")
    assert mine != database
    seen: list[str] = []
    for _ in ids:
        async with ffc.connect(mine) as backend, PostgresCheckpoints(mine) as store:
            start = ffc.StreamCursor.beginning()
            async with ffc.checkpointed(backend, store, "w", start=start, lease="raise") as completions:
                async for completion in completions:
                    seen.append(completion.execution_id)
                    await completions.commit()
                    break
    assert seen == ids
    psql(url, "DROP DATABASE rights WITH (FORCE)")
    psql(url, "DROP ROLE rights_worker")


def test_the_newcomers_commands_come_first() -> None:
    """One sentence, then the block that runs it and the block that tests it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block for language, block in BLOCK.findall(text) if language == "sh"]
    assert blocks[:2] == COMMANDS


def test_the_contract_s_page_names_every_check() -> None:
    """By number and name, and none that is not there."""
    from ffcompletion.testing import CHECKS

    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9.]+) \| (.*?) \| `check_(\w+)`", text, re.MULTILINE)
    assert rows == [(check.clause, check.title, check.name) for check in CHECKS]
