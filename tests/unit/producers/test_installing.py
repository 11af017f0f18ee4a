"""What is installed, and where it can be: before any server is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

import ffcompletion as ffc
from ffcompletion.producers import install, prune, text, uninstall

HOUR = timedelta(hours=1)
DOORS: dict[str, Callable[[str], Awaitable[object]]] = {
    "install": install,
    "uninstall": uninstall,
    "prune": lambda url: prune(url, HOUR),
}


@pytest.mark.parametrize(
    ("retention", "line"),
    [
        (timedelta(hours=24), "local RETENTION_MS = 86400000"),
        (timedelta(milliseconds=50), "local RETENTION_MS = 50"),
        (timedelta(0), "local RETENTION_MS = 0"),
    ],
)
def test_the_retention_is_written_into_the_functions(retention: timedelta, line: str) -> None:
    """Once, and nothing else is changed; in SQL there is none."""
    found = text("valkey", retention=retention).splitlines()
    assert found.count(line) == 1
    assert [each for each in found if each != line] == [
        each for each in text("valkey").splitlines() if each != "local RETENTION_MS = 86400000"
    ]
    assert text("postgres", retention=retention) == text("postgres")


def test_a_negative_age_is_refused() -> None:
    """It would clear away what has not happened yet."""
    for kind in ("postgres", "valkey"):
        with pytest.raises(ffc.Validation, match="retention"):
            text(kind, retention=-HOUR)


async def test_nothing_is_pruned_by_a_negative_age() -> None:
    """Also of what never finished; no server is asked."""
    url = "valkey://127.0.0.1:1"
    with pytest.raises(ffc.Validation, match="age"):
        await prune(url, -HOUR)
    with pytest.raises(ffc.Validation, match="age"):
        await prune(url, HOUR, unfinished=-HOUR)
    with pytest.raises(ffc.Validation, match="retention"):
        await install(url, retention=-HOUR)


@pytest.mark.parametrize("door", DOORS)
async def test_the_memory_backend_needs_no_producer(door: str) -> None:
    """And is told what to call."""
    with pytest.raises(ffc.Validation, match="emit"):
        await DOORS[door]("memory://")


@pytest.mark.parametrize(
    ("url", "driver", "extra"), [("valkey://h", "glide", "valkey"), ("postgresql://h/d", "psycopg", "postgres")]
)
def test_without_the_driver_the_pip_line_is_told(url: str, driver: str, extra: str) -> None:
    """By each of them, in a fresh interpreter that has only the core."""
    program = (
        f"import asyncio, datetime, sys; sys.modules[{driver!r}] = None\n"
        "import ffcompletion as f\nfrom ffcompletion.producers import install, prune, uninstall\n"
        f"for door in install, uninstall, lambda url: prune(url, datetime.timedelta(hours=1)):\n"
        f"    try: asyncio.run(door({url!r}))\n"
        "    except f.Unavailable as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"pip install 'ffcompletion[{extra}]'") == 3
