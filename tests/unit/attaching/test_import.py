"""Who does not attach anything needs no driver for it."""

from __future__ import annotations

import subprocess
import sys

ATTACH = "attach", "postgresql://nowhere/x", "procrastinate"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line where psycopg is not installed."""
    program = "import sys; sys.modules['psycopg'] = None; from ffcompletion.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_line_without_the_driver() -> None:
    """It starts; what needs the driver says how it is installed."""
    assert run("--version").returncode == 0
    done = run(*ATTACH)
    assert done.returncode == 2
    assert "pip install 'ffcompletion[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr
