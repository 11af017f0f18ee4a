"""Findings: how grave, of clocks and of connections that are not encrypted."""

from __future__ import annotations

import pytest

from ffcompletion.contract.diagnosis import Finding, Verdict, about_clocks, about_no_encryption, exit_status


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [([], 0), (["ok", "note"], 0), (["ok", "warning"], 1), (["warning", "failure"], 2)],
)
def test_the_gravest_decides(verdicts: list[str], status: int) -> None:
    assert exit_status([Finding("x", Verdict(verdict), "") for verdict in verdicts]) == status


@pytest.mark.parametrize(
    ("server", "words"), [(100.0, ""), (101.5, ""), (110.0, "9.0 s ahead"), (90.0, "10.0 s behind")]
)
def test_clocks(server: float, words: str) -> None:
    """Asked between 100 and 101 of ours."""
    found = about_clocks(server, 100.0, 101.0)
    assert (found.verdict is Verdict.WARNING) == bool(words)
    assert words in found.found


@pytest.mark.parametrize("host", ["", "/run/pg", "@abstract", "localhost", "127.0.0.1", "::1"])
def test_nobody_listens_on_this_machine(host: str) -> None:
    assert about_no_encryption(host, "do this").verdict is Verdict.OK


@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "2001:db8::1"])
def test_elsewhere_it_matters(host: str) -> None:
    found = about_no_encryption(host, "do this")
    assert (found.verdict, found.remedy) == (Verdict.WARNING, "do this")
