"""``python -m tests.typing.public``: pin the type of every public name, as two type checkers see it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import ffcompletion
import ffcompletion.testing
from tests.typing.checkers import CHECKERS, Found, installed
from tests.worlds.once import build_wheel

PINNED = Path(__file__).parent / "public.json"
_NAMES = [f"ffcompletion.{name}" for name in ffcompletion.__all__] + [
    f"ffcompletion.testing.{name}" for name in ffcompletion.testing.__all__
]


def program() -> str:
    """One that has everything revealed."""
    return "\n".join(
        ["import ffcompletion", "import ffcompletion.testing", *(f"reveal_type({name})" for name in _NAMES), ""]
    )


def revealed(found: Mapping[str, Found]) -> dict[str, dict[str, str]]:
    """By name, what each checker reveals."""
    return {
        name: {checker: _type(said["revealing.py"].get(-number, "")) for checker, said in found.items()}
        for number, name in enumerate(_NAMES, 3)
    }


def _type(message: str) -> str:
    told = re.fullmatch(r'(?:Revealed type is|Type of "[^"]*" is) "(.*)"', message, re.DOTALL)
    return "" if told is None else told[1]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        build_wheel(home / "dist")
        (wheel,) = (home / "dist").glob("*.whl")
        python = installed(home / "installed", wheel)
        (home / "programs").mkdir()
        (home / "programs" / "revealing.py").write_text(program())
        checkers = ("mypy", "basedpyright")
        pinned = revealed({checker: CHECKERS[checker](home / "programs", python) for checker in checkers})
        PINNED.write_text(json.dumps(pinned, indent=1, ensure_ascii=False) + "\n")
