"""A second process that publishes or inserts, so that the reader's process measures reading alone."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import uuid

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"


def execution(number: int) -> str:
    """A distinct id."""
    return f"{{fp:{number % 256}}}:{uuid.UUID(int=number + (1 << 100))}"


def message(number: int) -> bytes:
    """What the engine publishes."""
    return json.dumps(
        {"flow_id": FLOW, "outcome": "success", "execution_id": execution(number)}, separators=(",", ":")
    ).encode()


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("valkey://").partition(":")
    return socket.create_connection((host, int(port)))


def write_keys(url: str, count: int, namespace: str = "a") -> None:
    """Core and tags of executions 0 … count-1."""
    conn = _connect(url)
    for start in range(0, count, 1000):
        batch = b""
        for number in range(start, min(count, start + 1000)):
            key = f"ff:exec:{{fp:{number % 256}}}:{execution(number)}".encode()
            batch += _command(
                b"HSET", key + b":core", b"namespace", namespace.encode(), b"lifecycle_phase", b"terminal"
            )
            batch += _command(b"HSET", key + b":tags", b"k", b"v")
        conn.sendall(batch)
        _drain(conn, 2 * (min(count, start + 1000) - start))
    conn.close()


def _drain(conn: socket.socket, replies: int) -> None:
    while replies:
        replies -= conn.recv(1 << 16).count(b"\r\n")


def publish(url: str, count: int) -> None:
    """As fast as the server takes them, in pipelines of 100."""
    conn = _connect(url)
    # Made before it starts, so that making them is not measured.
    batches = [
        (
            b"".join(_command(b"PUBLISH", b"ff:dag:completions", message(n)) for n in range(s, min(count, s + 100))),
            min(count, s + 100) - s,
        )
        for s in range(0, count, 100)
    ]
    for batch, replies in batches:
        conn.sendall(batch)
        _drain(conn, replies)
    conn.close()


async def insert(url: str, count: int, per_transaction: int) -> None:
    """Rows through the outbox and its trigger, in transactions of ``per_transaction``."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(url) as conn, conn.cursor() as cursor:
        for start in range(0, count, per_transaction):
            values = [
                (n % 256, str(uuid.UUID(int=n + (1 << 100))), FLOW)
                for n in range(start, min(count, start + per_transaction))
            ]
            await cursor.executemany(
                "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
                " VALUES (%s, %s, %s, 'success', 1)",
                values,
            )
            await conn.commit()


def publish_large(url: str, count: int, size: int) -> None:
    """Announcements that are padded to this size."""
    conn = _connect(url)
    for number in range(count):
        text = message(number)
        conn.sendall(
            _command(b"PUBLISH", b"ff:dag:completions", text[:-1] + b',"x":"' + b"x" * (size - len(text) - 7) + b'"}')
        )
        _drain(conn, 1)
    conn.close()


def publish_unknown(url: str, count: int) -> None:
    """Announcements of executions that nobody has heard of, each another one."""
    conn = _connect(url)
    for start in range(0, count, 100):
        ids = [f"{{fp:{n % 256}}}:{uuid.uuid4()}" for n in range(start, min(count, start + 100))]
        texts = [json.dumps({"flow_id": FLOW, "outcome": "success", "execution_id": id_}).encode() for id_ in ids]
        conn.sendall(b"".join(_command(b"PUBLISH", b"ff:dag:completions", text) for text in texts))
        _drain(conn, len(texts))
    conn.close()


async def notify(url: str, count: int) -> None:
    """Ids that no row has, as anybody may notify them."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        for start in range(0, count, 10_000):
            await conn.execute(
                "SELECT pg_notify('ff_completion', n::text) FROM generate_series(%s::bigint, %s::bigint) n",
                (10**12 + start, 10**12 + min(count, start + 10_000) - 1),
            )


async def results(url: str, count: int, size: int) -> None:
    """Executions that leave results of this size, on either server."""
    if url.startswith("valkey:"):
        conn = _connect(url)
        for number in range(count):
            key = f"ff:exec:{{fp:{number % 256}}}:{execution(number)}".encode()
            conn.sendall(_command(b"SET", key + b":result", bytes(size)))
            now = b"%d" % (time.time_ns() // 1_000_000)
            fields = (b"namespace", b"a", b"lifecycle_phase", b"terminal", b"terminal_outcome", b"success")
            conn.sendall(_command(b"HSET", key + b":core", *fields, b"completed_at", now))
            # Where a stream that had no room finds it.
            index = b"ff:idx:{fp:%d}:lane:default:terminal" % (number % 256)
            conn.sendall(_command(b"ZADD", index, now, execution(number).encode()))
            conn.sendall(_command(b"PUBLISH", b"ff:dag:completions", message(number)))
            _drain(conn, 4)
        conn.close()
        return
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as pg:
        for number in range(count):
            values = (number % 256, str(uuid.UUID(int=number + (1 << 100))))
            async with pg.transaction():
                await pg.execute(
                    "INSERT INTO ff_exec_core (partition_key, execution_id, lifecycle_phase, result, raw_fields)"
                    " VALUES (%s, %s, 'terminal', %s, '{\"namespace\": \"a\"}') ON CONFLICT DO NOTHING",
                    (*values, bytes(size)),
                )
                await pg.execute(
                    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                    " VALUES (%s, %s, 'success', 1)",
                    values,
                )


def start(kind: str, url: str, *numbers: int) -> subprocess.Popen[bytes]:
    """In a process of its own; it waits for a line on its stdin, so that its own start is not measured."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.producer", kind, url, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def go(process: subprocess.Popen[bytes]) -> float:
    """Let it run; when that was."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    return time.perf_counter()


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, and close its pipes."""
    process.communicate(timeout=120)


if __name__ == "__main__":
    kind, url, *rest = sys.argv[1:]
    numbers = [int(word) for word in rest]
    print("ready", flush=True)
    sys.stdin.readline()
    if kind == "publish":
        publish(url, numbers[0])
    elif kind == "large":
        publish_large(url, numbers[0], numbers[1])
    elif kind == "unknown":
        publish_unknown(url, numbers[0])
    elif kind == "notify":
        asyncio.run(notify(url, numbers[0]))
    elif kind == "results":
        asyncio.run(results(url, numbers[0], numbers[1]))
    else:
        asyncio.run(insert(url, numbers[0], numbers[1]))
