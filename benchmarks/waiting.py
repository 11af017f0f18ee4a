"""Waiting for one execution, against the bare stream: from commit to return."""

from __future__ import annotations

import asyncio
import binascii
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg

import ffcompletion as ffc
from benchmarks.postgres import prepare
from benchmarks.postgres_latency import database
from benchmarks.table import Row, median
from ffcompletion.backends.valkey.connection import make_client
from ffcompletion.backends.valkey.options import Options

ROUNDS = 12
WAITS = 50
IN_TURN = 100
FLOW = uuid.UUID("a76a8496-6e9c-457a-8727-b5169796f3cd")
Finish = Callable[[str], Awaitable[None]]


def _fresh() -> str:
    return f"{{fp:{binascii.crc_hqx(FLOW.bytes, 0) % 256}}}:{uuid.uuid4()}"


@asynccontextmanager
async def _on_postgres(url: str) -> AsyncGenerator[Finish]:
    await prepare(url)
    async with _finishing(url) as finish:
        yield finish


@asynccontextmanager
async def _finishing(url: str) -> AsyncGenerator[Finish]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:

        async def finish(execution_id: str) -> None:
            partition, _, bare = execution_id[4:].partition("}:")
            await conn.execute(
                "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
                " VALUES (%s, %s, %s, 'success', 1)",
                (partition, bare, FLOW),
            )

        yield finish


@asynccontextmanager
async def _on_valkey(url: str) -> AsyncGenerator[Finish]:
    client = await make_client(Options.from_url(url))

    async def finish(execution_id: str) -> None:
        message = {"flow_id": str(FLOW), "outcome": "success", "execution_id": execution_id}
        await client.custom_command(["PUBLISH", "ff:dag:completions", json.dumps(message)])

    yield finish
    await client.close()


async def _streamed(backend: ffc.Backend, finish: Finish) -> list[float]:
    took: list[float] = []
    async with ffc.subscribe(backend) as stream:
        for _ in range(WAITS):
            id_ = _fresh()
            waiting = asyncio.ensure_future(anext(aiter(stream)))
            await asyncio.sleep(0.002)
            began = time.perf_counter()
            finishing = asyncio.ensure_future(finish(id_))
            assert (await waiting).execution_id == id_
            took.append(time.perf_counter() - began)
            await finishing
    return took


async def _waited(backend: ffc.Backend, finish: Finish) -> list[float]:
    took: list[float] = []
    ids = [_fresh() for _ in range(WAITS)]
    waits = [
        asyncio.ensure_future(ffc.wait_for_completion(backend, id_, missing="wait", poll_interval=3600)) for id_ in ids
    ]
    await asyncio.sleep(0.5)
    for id_, wait in zip(ids, waits, strict=True):
        await asyncio.sleep(0.002)
        began = time.perf_counter()
        finishing = asyncio.ensure_future(finish(id_))
        assert (await wait).execution_id == id_
        took.append(time.perf_counter() - began)
        await finishing
    return took


async def _in_turn(url: str, finish: Finish) -> list[float]:
    """One after the other, no stream open: each call's own time, the execution finishes while it waits."""
    took: list[float] = []
    async with ffc.connect(url) as backend:
        for number in range(IN_TURN):
            id_ = _fresh()
            began = time.perf_counter()
            waiting = asyncio.ensure_future(ffc.wait_for_completion(backend, id_, missing="wait", poll_interval=3600))
            # The first one connects; the others find what it left.
            pause_s = 0.02 if number else 1.0
            await asyncio.sleep(pause_s)
            await finish(id_)
            await waiting
            took.append(time.perf_counter() - began - pause_s)
    return took[1:]


async def run(url: str) -> list[Row]:
    """On the one server of this URL."""
    kind, producing = ("valkey", _on_valkey) if url.startswith("valkey") else ("postgres", _on_postgres)
    streamed: list[float] = []
    waited: list[float] = []
    async with producing(url) as finish, ffc.connect(url) as backend, ffc.subscribe(backend):
        # That stream is kept open, so that no round begins with a connection.
        for _ in range(ROUNDS):
            streamed += await _streamed(backend, finish)
            waited += await _waited(backend, finish)
        in_turn = await _in_turn(url, finish)
    rows = [_row_in_turn(kind, in_turn)]
    if kind == "postgres":
        async with database(url, "own") as own, _finishing(own) as finish:
            rows.append(_row_in_turn("postgres, our own producers' tables", await _in_turn(own, finish)))
    ours, bare = median(waited), median(streamed)
    what = f"{kind}: commit to return of `wait_for_completion`, p50 of {len(waited)}, against our bare stream"
    return [
        Row(
            what=what,
            ours=f"{ours * 1000:.2f} ms",
            bare=f"{bare * 1000:.2f} ms",
            ratio=f"{ours / bare:.2f}×",
            floor="1.3×",
        ),
        *rows,
    ]


def _row_in_turn(where: str, took: list[float]) -> Row:
    return Row(
        what=f"{where}: one `wait_for_completion` after another, no stream open, p50 of {len(took)} but the first",
        ours=f"{median(took) * 1000:.2f} ms",
        floor="5 ms",
        goal="2 ms",
    )
