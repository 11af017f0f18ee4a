"""The documentation as a site: it builds without a warning, every page is in it, and it asks nothing of elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.worlds.once import once

# What a user comes with, and a word that the page for it cannot do without.
TASKS = {
    "wait in a web request": ("waiting.md", "FastAPI"),
    "wait in Django": ("waiting.md", "Django"),
    "process everything once more after a crash": ("worker.md", "checkpointed"),
    "test without a server": ("testing.md", "memory://"),
    "show a browser what happens": ("web.md", "EventSource"),
    "find out why nothing arrives": ("operations.md", "ffcompletion doctor"),
    "be alarmed before users are": ("metrics.md", "lost"),
    "grant just enough": ("operations.md", "ACL SETUSER"),
    "run a hundred processes": ("many-processes.md", "partitions"),
    "choose ids": ("concepts.md", "{fp:N}"),
    "wait for the first of several": ("waiting.md", "as_completed"),
    "use it from code that blocks": ("waiting.md", "ffc.sync"),
    "resume a worker where it stopped": ("worker.md", "goes on where it stopped"),
    "attach procrastinate": ("jobs.md", "ffcompletion attach postgresql://localhost/app procrastinate"),
    "know what a log line means": ("log-lines.md", "the watermark has been held at event"),
    "write a backend": ("writing-a-backend.md", "check_backend"),
    "show it to Prometheus": ("metrics.md", "PrometheusMetricReader"),
    "announce from my own transaction": ("producers.md", "ff_emit_completion"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warnings are errors."""

    def build(folder: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)], cwd=ROOT, capture_output=True,
            text=True, timeout=110, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return once(tmp_path_factory, "site", build)


def test_it_builds_every_page(site: Path) -> None:
    """And the menu leads to each that the front page names."""
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html" if page.stem != "index" else site / "index.html").is_file()
    for name in re.findall(r"\(([\w-]+\.md)\)", (ROOT / "docs" / "index.md").read_text()):
        assert f": {name}" in menu, f"{name} is not in mkdocs.yml"


def test_the_reference_has_what_the_package_offers(site: Path) -> None:
    """With its docstring."""
    import ffcompletion

    text = (site / "reference" / "index.html").read_text()
    missing = [
        name for name in ffcompletion.__all__ if not name.startswith("__") and name != "sync" and f"{name}" not in text
    ]
    assert not missing
    assert "When it returns, the subscription is live" in re.sub(r"<[^>]+>", "", text)


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    """No font, script or style of another host."""
    text = (site / "index.html").read_text()
    assert not re.findall(
        r"<(?:script|link rel=\"(?:stylesheet|preconnect)\")[^>]*(?:src|href)=\"https?://[^\"]+", text
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_its_page(task: str) -> None:
    """And the page speaks of it, and the front page leads to it."""
    name, word = TASKS[task]
    assert word in (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert f"({name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
