"""``python -m tests.typing.public``: pin the type of every public name, as both type checkers see it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ffcompletion
import ffcompletion.testing

PINNED = Path(__file__).parent / "public.json"
_NAMES = [f"ffcompletion.{name}" for name in ffcompletion.__all__] + [
    f"ffcompletion.testing.{name}" for name in ffcompletion.testing.__all__
]


def revealed() -> dict[str, dict[str, str]]:
    """By name, what each checker reveals."""
    lines = ["import ffcompletion", "import ffcompletion.testing", *(f"reveal_type({name})" for name in _NAMES)]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "revealing.py"
        program.write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(program)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        mypy = dict(re.findall(r":(\d+): note: Revealed type is \"(.*)\"", done.stdout))
        done = subprocess.run(
            [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(program)],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        notes = json.loads(done.stdout)["generalDiagnostics"]
        pyright = {
            str(note["range"]["start"]["line"] + 1): note["message"].partition(" is ")[2].strip('"')
            for note in notes
            if note["severity"] == "information" and note["message"].startswith("Type of")
        }
    return {
        name: {"mypy": mypy.get(str(number), ""), "basedpyright": pyright.get(str(number), "")}
        for number, name in enumerate(_NAMES, 3)
    }


if __name__ == "__main__":
    PINNED.write_text(json.dumps(revealed(), indent=1, ensure_ascii=False) + "\n")
