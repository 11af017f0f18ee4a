"""Each type checker, run once over all programs, against the package as a user installs it: the built wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What it answers, which is a type of its own that contains itself: told wherever its name stands, whatever it is given.
_OF_GLIDE = 'Type of "custom_command" is partially unknown'

Found = Mapping[str, Mapping[int, str]]
"""By program and line, what is wrong there; what is revealed is found under the line's negative."""


def installed(folder: Path, wheel: Path) -> Path:
    """The interpreter of an environment with our wheel, and with what ours has beside it."""
    home = folder / "environment"
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Behind the wheel, so that an editable install out there is never looked at.
    (packages / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "python"


def programs(folder: Path) -> Sequence[str]:
    """What a user writes: the accepted and the rejected, and every block of Python in the documents, as pasted."""
    folder.mkdir()
    for path in sorted((ROOT / "tests" / "typing").glob("*ed.py")):
        (folder / path.name).write_text(path.read_text())
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, (language, text) in enumerate(_BLOCK.findall(document.read_text(encoding="utf-8")), 1):
            if language == "python":
                (folder / f"{document.stem.lower().replace('-', '_')}_{number}.py").write_text(text)
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "reportMissingModuleSource": False})
    )
    return sorted(path.name for path in folder.glob("*.py"))


def mypy(folder: Path, python: Path) -> Found:
    """``mypy --strict``."""
    config = folder / "mypy.ini"
    # Half of the time went into what these have inside, and no program says a word of them.
    skipped = ",".join(f"{each}.*" for each in ("IPython", "prompt_toolkit", "rich", "sqlalchemy", "trio"))
    config.write_text(f"[mypy]\n[mypy-{skipped}]\nfollow_imports = skip\n")
    done = _run(
        folder, "mypy", "--strict", "--output=json", "--config-file", str(config), "--python-executable", str(python),
        "--cache-dir", os.devnull, *(path.name for path in folder.glob("*.py")),
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return _by_line(
        (
            item["file"],
            item["line"] if item["severity"] == "error" else -item["line"],
            # What follows says more of it.
            "\n".join(text for text in (item["message"], item["hint"]) if text),
        )
        for item in lines
    )


def pyright(folder: Path, python: Path, checker: str = "pyright") -> Found:
    """``pyright``, in its strict mode."""
    done = _run(folder, checker, "--outputjson", "--pythonpath", str(python))
    # Behind what the launcher may have said.
    start = done.stdout.find("{")
    assert start >= 0, done.stdout + done.stderr
    return _by_line(
        (
            item["file"],
            (1 if item["severity"] == "error" else -1) * (item["range"]["start"]["line"] + 1),
            item["message"],
        )
        for item in json.loads(done.stdout[start:])["generalDiagnostics"]
        if not item["message"].startswith(_OF_GLIDE)
    )


def basedpyright(folder: Path, python: Path) -> Found:
    """``basedpyright``, in the same mode."""
    return pyright(folder, python, "basedpyright")


def pyrefly(folder: Path, python: Path) -> Found:
    """``pyrefly``."""
    done = _run(
        folder, "pyrefly", "check", "--python-interpreter-path", str(python), "--output-format", "json",
        *(path.name for path in folder.glob("*.py")),
    )  # fmt: skip
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return _by_line(
        (item["path"], item["line"] if item["severity"] == "error" else -item["line"], item["description"])
        for item in json.loads(done.stdout)["errors"]
    )


CHECKERS: Mapping[str, Callable[[Path, Path], Found]] = {
    "mypy": mypy, "pyright": pyright, "basedpyright": basedpyright, "pyrefly": pyrefly,
}  # fmt: skip


def _run(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def _by_line(items: Any) -> Found:
    found: dict[str, dict[int, str]] = {}
    for path, line, message in items:
        found.setdefault(Path(path).name, {}).setdefault(line, message)
    return found
