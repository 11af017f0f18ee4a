"""Whatever the package logs stands on the page of log lines, and the page names nothing that is not logged."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

PAGE = ROOT / "docs" / "log-lines.md"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log")
PLACE = re.compile(r"%%|%[sdr]|%\.\d+f")


def _text(node: ast.expr) -> str | None:
    """The line, with `…` for what differs; None for what is no text of this place."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return PLACE.sub(lambda found: "%" if found[0] == "%%" else "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def _lines(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value).lower()
            logs = node.func.attr in LEVELS and ("log" in of or "rate" in of)
            if logs or node.func.attr == "_say":
                for argument in node.args[:2]:
                    text = _text(argument)
                    if text is not None and re.search(r"[a-z]{2}", text):
                        yield text


def _logged() -> list[tuple[str, str]]:
    package = ROOT / "ffcompletion"
    return [
        (path.relative_to(package).as_posix(), line)
        for path in sorted(package.rglob("*.py"))
        if path.name not in ("logs.py", "calling.py") and "cli" not in path.parts
        for line in _lines(path)
    ]


def _documented() -> list[str]:
    return [
        " ".join(line.split())
        for row in PAGE.read_text(encoding="utf-8").splitlines()
        if row.startswith("| `")
        for line in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    ]


def test_every_line_is_explained() -> None:
    """By its beginning, up to where it names a remedy."""
    documented, logged = _documented(), _logged()
    assert len(logged) >= 30
    unexplained = [
        (where, line)
        for where, line in logged
        if not any(line.startswith(known) or known.startswith(line) for known in documented)
    ]
    assert not unexplained


def test_lines_that_are_made_elsewhere_are_explained_too() -> None:
    """The watermark's, and those of code that was handed in."""
    from ffcompletion.backends.postgres.holders import Holding

    holding = Holding(60.0)
    assert holding.due(0.0, 61.0)
    told, over = holding.tell(0.0, 61.0, [], 7, 2), holding.over(None, 70.0)
    shown = [re.escape(known).replace("…", ".+") for known in _documented()]
    for line in (
        told,
        over,
        "the filter Mine raised ValueError",
        "the observer raised ValueError",
        "what is observed raised ValueError",
    ):
        assert line is not None
        assert any(re.match(pattern, line) for pattern in shown), line


def test_nothing_is_explained_that_is_not_logged() -> None:
    """A line that was renamed takes its row along."""
    logged = [line for _, line in _logged()]
    made = (
        "the watermark ",
        "the filter ",
        "the observer ",
        "what is observed ",
        "…: … ",
        "…: …",
        "web: …",
        "valkey: ",
        "postgres: ",
    )
    gone = [
        known
        for known in _documented()
        if not known.startswith(made) and not any(line.startswith(known) or known.startswith(line) for line in logged)
    ]
    assert gone == []


def test_every_counter_is_explained() -> None:
    """Each field of both statistics has a row among the counters, and each says when it is an alarm."""
    import ffcompletion as ffc

    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    missing = [
        name
        for kind in (ffc.StreamStats, ffc.BackendStats)
        for name in kind.__struct_fields__
        if not any(f"`{name}`" in row.split(" | ")[0] for row in rows)
    ]
    assert missing == []
