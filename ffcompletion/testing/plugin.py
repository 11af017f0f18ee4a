"""The pytest plugin: says what is missing, and sums up by clause what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_terminal_summary"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the tests: each contract that was broken, with its clauses in one line."""
    broken: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("failed"):
        path, _, name = report.nodeid.rpartition("::")
        clause = name.partition("[")[0].split("_")
        if report.when == "call" and name.startswith("test_") and "ContractViolation" in report.longreprtext:
            broken.setdefault(path.rpartition("::")[2], []).append(".".join(clause[1:3]))
    for name, clauses in broken.items():
        terminalreporter.write_line(f"{name}: broken clauses {', '.join(clauses)}", red=True)
