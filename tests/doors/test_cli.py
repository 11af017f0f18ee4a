"""The command line: on a terminal, piped, interrupted, and in trouble. Completions come from raw commands."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pexpect
import psycopg
import pytest

from ffcompletion import embedded
from tests.worlds.forking import Interpreter

FFC = Interpreter("-m", "ffcompletion")
E = "{fp:7}:550e8400-e29b-41d4-a716-44665544%04d"
F = "a76a8496-6e9c-457a-8727-b5169796f3cd"


def raw_valkey(url: str, *commands: list[str]) -> None:
    """What valkey-cli would send: commands on a socket, no client library."""
    host, _, port = url.removeprefix("valkey://").partition(":")
    with socket.create_connection((host, int(port)), 5) as conn:
        for words in commands:
            conn.sendall(
                f"*{len(words)}\r\n".encode() + b"".join(f"${len(w.encode())}\r\n{w}\r\n".encode() for w in words)
            )
            assert not conn.recv(4096).startswith(b"-")


def psql(url: str, sql: str) -> None:
    """The real psql, from the wheel's own binaries."""
    binary = embedded.postgres_program("psql")
    subprocess.run([str(binary), url, "-qc", sql], check=True, timeout=20)


def announce(url: str, number: int, outcome: str = "success", tenant: str = "a", tag: str = "none") -> None:
    """One completion, by hand, as the wire has it; ``tag`` is what its tag ``k`` says."""
    execution = E % number
    if url.startswith("valkey"):
        key = f"ff:exec:{{fp:7}}:{execution}"
        message = json.dumps({"flow_id": F, "outcome": outcome, "execution_id": execution})
        core = ["namespace", tenant, "flow_id", F, "lifecycle_phase", "terminal", "terminal_outcome", outcome]
        raw_valkey(
            url,
            ["HSET", f"{key}:core", *core],
            ["HSET", f"{key}:tags", "k", tag],
            ["PUBLISH", "ff:dag:completions", message],
        )
        return
    bare = execution.partition("}:")[2]
    with psycopg.connect(url) as conn:
        conn.execute(
            f"INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, raw_fields) VALUES (7, '{bare}',"
            f' \'terminal\', \'{{"namespace":"{tenant}","tags":{{"k":"{tag}"}}}}\') ON CONFLICT (partition_key, execution_id)'
            " DO UPDATE SET raw_fields = excluded.raw_fields;"
            " INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
            f" VALUES (7, '{bare}', '{F}', '{outcome}', 1)".encode()
        )


@pytest.fixture(params=["valkey", "postgres18"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def _start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*FFC, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _announce_until(process: subprocess.Popen[str], url: str, *announcements: tuple[object, ...]) -> tuple[str, str]:
    """The tail takes a moment to be live: announce again until it has ended by itself."""
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        for words in announcements:
            announce(url, *words)  # type: ignore[arg-type]  # number, outcome, tenant
        time.sleep(0.05)
    return process.communicate(timeout=10)


def test_tail_piped_is_plain_lines(url: str) -> None:
    """No escape codes; totals on stderr; --count ends it with status 0."""
    process = _start("tail", url, "--count", "2")
    out, err = _announce_until(process, url, (1, "success", "a"))
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(E % 1 in line and "success" in line for line in lines)
    assert "\x1b" not in out
    assert "2 completions" in err


def test_tail_json_filters_and_outcomes(url: str) -> None:
    """JSON Lines; another tenant's and other outcomes never show."""
    process = _start("tail", url, "--json", "--count", "1", "--namespace", "b", "--outcome", "failed", "--flow", F)
    out, err = _announce_until(process, url, (2, "failed", "a"), (3, "success", "b"), (4, "failed", "b"))
    assert process.returncode == 0, err
    (line,) = [json.loads(text) for text in out.splitlines()]
    assert (line["execution_id"], line["outcome"], line["flow_id"]) == (E % 4, "failed", F)
    assert ("cursor" in line) == url.startswith("postgres")


def test_tail_by_tag(url: str) -> None:
    """--tag KEY=VALUE; without a = it is refused."""
    process = _start("tail", url, "--tag", "k=v", "--count", "1")
    out, err = _announce_until(process, url, (6, "success", "a"), (7, "success", "a", "v"))
    assert process.returncode == 0, err
    assert (E % 7 in out, E % 6 in out) == (True, False)
    done = subprocess.run([*FFC, "tail", url, "--tag", "kv"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "KEY=VALUE" in done.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_tail_interrupted_ends_cleanly(url: str, sign: signal.Signals) -> None:
    """Totals, status 0, no traceback."""
    process = _start("tail", url)
    assert process.stdout is not None
    end = time.monotonic() + 30
    while not select.select([process.stdout], [], [], 0.05)[0] and time.monotonic() < end:
        announce(url, 5)
    process.send_signal(sign)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "completions in" in err
    assert "Traceback" not in err


def test_tail_on_a_terminal_has_colours(url: str) -> None:
    """A live line per completion, coloured; Ctrl-C ends it with the totals."""
    child = pexpect.spawn(
        FFC[0],
        [*FFC[1:], "tail", url],
        encoding="utf-8",
        timeout=20,
        dimensions=(24, 120),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.expect("listening")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        announce(url, 6, "failed")
        if child.expect([r"failed", pexpect.TIMEOUT], timeout=0.2) == 0:
            break
    assert "\x1b[" in str(child.before)
    child.expect(re.escape(E % 6))
    child.sendintr()
    child.expect(r"completions in")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.parametrize(
    "url",
    [
        "valkey://u:sEcReT@127.0.0.1:1",
        "postgresql://u:sEcReT@127.0.0.1:1/d",
        "nope://u:sEcReT@h",
        "valkey://127.0.0.1:x",
    ],
)
def test_trouble_is_one_line_and_status_2(url: str) -> None:
    """No traceback, no password."""
    done = subprocess.run([*FFC, "tail", url], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "sEcReT" not in done.stderr


def test_producers_show_and_install(valkey_url: str, postgres18_url: str) -> None:
    """The text; installing, twice; and beside the engine's own tables nothing is touched."""
    for kind, marker in (("postgres", "ff_emit_completion"), ("valkey", "#!lua name=ffcompletion")):
        done = subprocess.run([*FFC, "producers", "show", kind], capture_output=True, text=True, timeout=30, check=True)
        assert marker in done.stdout
    psql(postgres18_url, "DROP DATABASE IF EXISTS plain")
    psql(postgres18_url, "CREATE DATABASE plain")
    plain = postgres18_url.replace("/postgres?", "/plain?")
    for url in (valkey_url, plain, plain):
        done = subprocess.run(
            [*FFC, "producers", "install", url], capture_output=True, text=True, timeout=30, check=True
        )
        assert "ready" in done.stdout
    psql(postgres18_url, "DROP DATABASE plain")
    done = subprocess.run(
        [*FFC, "producers", "install", postgres18_url], capture_output=True, text=True, timeout=30, check=True
    )
    assert "nothing was changed" in done.stdout
    with pytest.raises(subprocess.CalledProcessError):
        psql(postgres18_url, "SELECT ff_emit_completion('{fp:7}:550e8400-e29b-41d4-a716-446655440000', 'success')")
    done = subprocess.run(
        [*FFC, "producers", "install", "memory://"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2


def test_demo_piped_sends_and_receives_the_same() -> None:
    """Both servers, plain lines, a summary in which nothing is missing."""
    done = subprocess.run([*FFC, "demo", "--seconds", "1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"announced (\d+), received (\d+), of another tenant 0", done.stdout)
    assert found is not None
    assert found[1] == found[2]
    assert int(found[1]) > 50
    assert "\x1b" not in done.stdout
    assert "acme" in done.stdout
    assert "globex" in done.stdout


def test_demo_on_a_terminal_is_live() -> None:
    """A table that moves, and the summary."""
    child = pexpect.spawn(
        FFC[0],
        [*FFC[1:], "demo", "--backend", "valkey", "--seconds", "1"],
        encoding="utf-8",
        timeout=30,
        dimensions=(40, 140),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.expect("per second")
    child.expect(r"announced \d+, received \d+")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_help_and_version() -> None:
    """Every command has its help."""
    for words in ([], ["tail"], ["wait"], ["demo"], ["producers"], ["producers", "install"]):
        done = subprocess.run([*FFC, *words, "--help"], capture_output=True, text=True, timeout=30, check=True)
        assert "Usage" in done.stdout
    plain = [sys.executable, "-m", "ffcompletion", "--version"]
    done = subprocess.run(plain, capture_output=True, text=True, timeout=30, check=True)
    assert re.fullmatch(r"ffcompletion \d+\.\d+\.\d+\n", done.stdout)
