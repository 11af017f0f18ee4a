"""The typing proof: a user's program is accepted by both checkers, and each wrong line is an error in both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = HERE.parent.parent


def _mypy(path: Path) -> set[int]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output=json", "--config-file=", "--no-warn-unused-ignores", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=None,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {item["line"] for item in found if item["severity"] == "error" and Path(item["file"]).name == path.name}


def _pyright(path: Path) -> set[int]:
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(path)],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}


CHECKERS = pytest.mark.parametrize("checker", [_mypy, _pyright], ids=["mypy", "basedpyright"])


@CHECKERS
def test_a_user_s_program_is_accepted(checker: object) -> None:
    """No error in it."""
    assert callable(checker)
    assert checker(HERE / "accepted.py") == set()


@CHECKERS
def test_each_wrong_line_is_rejected(checker: object) -> None:
    """The marked lines, and no other."""
    assert callable(checker)
    path = HERE / "rejected.py"
    marked = {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# rejected")}
    assert checker(path) == marked
