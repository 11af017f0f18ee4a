"""The typing proof, against the built wheel: users' programs are accepted by every checker, each wrong line refused."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import TESTS
from tests.typing import public
from tests.typing.checkers import CHECKERS, Found, installed, programs
from tests.worlds.once import once, wheel

HERE = TESTS / "typing"
# Each checker starts once, for all of it; the slowest takes its time on a busy machine.
pytestmark = pytest.mark.timeout(400)


# A wrong line, and the member that the checker is to name.
_MARK = re.compile(r"  # rejected(?:: (\w+))?$")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with our wheel."""
    built = wheel(tmp_path_factory)

    def make(folder: Path) -> None:
        (folder / "python").write_text(str(installed(folder, built)))

    return Path((once(tmp_path_factory, "wheel", make) / "python").read_text())


@pytest.fixture(scope="module")
def said(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What each checker says of all programs."""

    @functools.cache
    def said(checker: str) -> Found:
        def make(folder: Path) -> None:
            programs(folder / "checked")
            (folder / "checked" / "revealing.py").write_text(public.program())
            (folder / "found.json").write_text(json.dumps(CHECKERS[checker](folder / "checked", python)))

        found = json.loads((once(tmp_path_factory, checker, make) / "found.json").read_text())
        return {name: {int(line): message for line, message in lines.items()} for name, lines in found.items()}

    return said


@pytest.fixture(scope="module", params=CHECKERS)
def found(said: Callable[[str], Found], request: pytest.FixtureRequest) -> Found:
    """By one checker after the other: whoever has begun with one goes on with it, and nobody waits for it meanwhile."""
    return said(request.param)


def test_what_a_user_writes_is_accepted(found: Found) -> None:
    """No error in the accepted programs, nor in any block of README and docs, as pasted."""
    wrong = {
        f"{name}:{line}": message
        for name, lines in found.items()
        for line, message in lines.items()
        if line > 0 and name not in ("rejected.py", "revealing.py")
    }
    assert not wrong


def test_each_wrong_line_is_rejected(found: Found, request: pytest.FixtureRequest) -> None:
    """The marked lines, and no other; where a class is no backend, the member is named that it lacks."""
    lines = (HERE / "rejected.py").read_text().splitlines()
    said = found["rejected.py"]
    marked = {number: mark[1] for number, line in enumerate(lines, 1) if (mark := _MARK.search(line))}
    assert set(marked) == {number for number in said if number > 0}
    nameless = {number: said[number] for number, member in marked.items() if member and member not in said[number]}
    if request.node.callspec.params["found"] == "pyrefly":
        # Of a union it explains the part whose name comes first, which need not be the one that was meant.
        nameless = {number: message for number, message in nameless.items() if " | " not in message}
    assert not nameless


def test_every_exported_symbol_has_a_known_type(python: Path, tmp_path: Path) -> None:
    """``--verifytypes``: 100 %."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pyright", "--verifytypes", "ffcompletion", "--ignoreexternal", "--outputjson",
            "--pythonpath", str(python),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout[done.stdout.find("{") :])["typeCompleteness"]
    unknown = [s["name"] for s in found["symbols"] if s["isExported"] and s["diagnostics"] and not s["isTypeKnown"]]
    assert not unknown
    assert found["completenessScore"] == 1


def test_the_package_is_what_its_annotations_say(python: Path, tmp_path: Path) -> None:
    """stubtest, on the wheel: what type checkers read is there at run time."""
    # What these would say of their own takes longer than all of ours; and what is inside our functions is not asked here.
    others = ("IPython", "anyio", "click", "hypothesis", "opentelemetry", "rich", "trio", "typer", "uvicorn")
    skipped = ",".join(f"{each}.*" for each in others)
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nignore_errors = True\n[mypy-{skipped}]\nfollow_imports = skip\n")
    done = subprocess.run(
        [
            str(python), "-m", "mypy.stubtest", "--ignore-missing-stub", "--concise", "--mypy-config-file", str(config),
            "--allowlist", str(HERE / "stubtest_allowlist.txt"), "--ignore-unused-allowlist", "ffcompletion",
        ],
        cwd=tmp_path, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_for_pytest_does_what_its_text_says(python: Path, tmp_path: Path) -> None:
    """Pasted into a file and run: no clause fails."""
    programs(tmp_path / "programs")
    (pasted,) = (path for path in (tmp_path / "programs").glob("writing*.py") if "BackendContract" in path.read_text())
    test = tmp_path / "test_pasted.py"
    test.write_text(pasted.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(test)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_types_of_public_names_are_pinned(said: Callable[[str], Found]) -> None:
    """As two checkers see them; ``python -m tests.typing.public`` pins them anew."""
    types = public.revealed({name: said(name) for name in ("mypy", "basedpyright")})
    assert types == json.loads(public.PINNED.read_text())
    assert all(each["mypy"] and each["basedpyright"] for each in types.values())
