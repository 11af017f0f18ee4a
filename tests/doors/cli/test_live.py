"""``tail`` on a terminal: rate, lag and state stay in view, and every line stays too; ``--summary`` is the table alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter

import pexpect
import pytest

from ffcompletion.cli.live import Rate, table_of
from tests.doors.cli.commands import FFC, E, announce


def terminal(*words: str) -> pexpect.spawn[str]:
    return pexpect.spawn(
        FFC[0],
        [*FFC[1:], *words],
        encoding="utf-8",
        timeout=30,
        dimensions=(24, 120),
        env={**os.environ, "TERM": "xterm-256color"},
    )


@pytest.mark.parametrize("server", ["valkey_url", "postgres18_url"])
def test_what_matters_stays_in_view_and_no_line_is_lost(server: str, request: pytest.FixtureRequest) -> None:
    """More lines than the terminal has rows: each is written once, above state, rate and lag."""
    url: str = request.getfixturevalue(server)
    child = terminal("tail", url, "--flow", "a76a8496-6e9c-457a-8727-b5169796f3cd", "--count", "40")
    child.expect("listening")
    child.expect("live")
    child.expect("behind")
    for number in range(200, 240):
        announce(url, number)
    child.expect("completions in")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    child = terminal("tail", url, "--count", "40")
    child.expect("listening")
    child.expect("Ctrl-C ends")
    for number in range(300, 340):
        announce(url, number)
    child.expect(pexpect.EOF)
    written = str(child.before)
    assert [number for number in range(300, 340) if written.count(E % number) != 1] == []
    assert "live" in written
    assert "/s" in written


def test_the_table_alone(valkey_url: str) -> None:
    """On a terminal it grows in place and stays at the end; piped it is written at the end, without escapes."""
    child = terminal("tail", valkey_url, "--summary", "--count", "3")
    child.expect("listening")
    child.expect("Ctrl-C ends")
    for number, outcome in ((400, "success"), (401, "failed"), (402, "success")):
        announce(valkey_url, number, outcome)
    child.expect("completions in")
    written = str(child.before)
    assert E % 400 not in written
    assert "failed" in written
    child.expect(pexpect.EOF)
    piped = subprocess.Popen(
        [*FFC, "tail", valkey_url, "--summary", "--count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while piped.poll() is None:
        announce(valkey_url, 403, "expired")
        time.sleep(0.05)
    out, err = piped.communicate()
    assert "expired" in out
    assert "\x1b" not in out
    assert "1 completions in" in err


def test_a_rate_is_of_the_last_seconds() -> None:
    """A burst is forgotten, and steady work is what it is."""
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert rate.per_second(0) == 0
    for second in range(1, 21):
        now[0] = float(second)
        assert rate.per_second(1_000 + second * 10) >= 10
    assert rate.per_second(1_200) == pytest.approx(10, rel=0.01)
    now[0] = 60.0
    rate.per_second(1_200)
    now[0] = 66.0
    assert rate.per_second(1_200) == 0


def test_the_table_counts_all() -> None:
    """By outcome, what the wire has no word for included."""
    table = table_of(Counter({"success": 2, "": 1}))
    assert table.row_count == 3
