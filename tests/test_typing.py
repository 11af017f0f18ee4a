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


def test_the_types_of_public_names_are_pinned() -> None:
    """As both checkers see them; ``python -m tests.typing.public`` pins them anew."""
    from tests.typing.public import PINNED, revealed

    found = revealed()
    assert found == json.loads(PINNED.read_text())
    assert all(types["mypy"] and types["basedpyright"] for types in found.values())


def test_every_exported_symbol_has_a_known_type() -> None:
    """``--verifytypes``: 100 %."""
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--verifytypes", "ffcompletion", "--ignoreexternal", "--outputjson",
         "--pythonpath", sys.executable],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["typeCompleteness"]
    unknown = [s["name"] for s in found["symbols"] if s["isExported"] and s["diagnostics"] and not s["isTypeKnown"]]
    assert not unknown
    assert found["completenessScore"] == 1


@pytest.mark.timeout(240)
def test_the_package_is_what_its_annotations_say(tmp_path: Path) -> None:
    """stubtest, on ourselves: what type checkers read is there at run time."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("stubtest")), "--ignore-missing-stub", "--concise",
            "--allowlist", str(HERE / "stubtest_allowlist.txt"), "--ignore-unused-allowlist", "ffcompletion",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
