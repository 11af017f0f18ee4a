"""The command, run as a process; and completions by raw commands, without a client library."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from typing import Any

import psycopg

from ffcompletion import embedded
from tests.worlds.forking import Interpreter

FFC = Interpreter("-m", "ffcompletion")


def psql(url: str, sql: str) -> None:
    """The real psql, from the wheel's own binaries."""
    binary = embedded.postgres_program("psql")
    subprocess.run([str(binary), url, "-qc", sql], check=True, timeout=20)


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


async def sh(script: str, *words: str) -> tuple[int, str, str]:
    """Run it as somebody's script; exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-uc", f'ffcompletion() {{ {" ".join(FFC)} "$@"; }}\n{script}', "script", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode or 0, out.decode(), err.decode()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FFC, "status", *words], capture_output=True, text=True, timeout=60, check=False)


def told(url: str) -> dict[str, Any]:
    answer = run(url, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
