"""Results are somebody's own time: who has not asked for any waits for none, whatever takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.valkey.lookups import Lookups as ValkeyLookups
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually, first, some

A = ffc.ScannerFilter("a", ("k", "v"))
MINE = {"namespace": "a", "tags": {"k": "v"}}


class Held:
    """Questions about results that are not answered until somebody says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()
        real = Lookups.results

        async def results(lookups: Lookups, conn: Connection, names: list[str], seconds: float) -> dict[str, Result]:
            self.asked += 1
            await self.go_on.wait()
            return dict(await real(lookups, conn, names, seconds))

        monkeypatch.setattr(Lookups, "results", results)


async def test_a_filtered_stream_waits_for_nobodys_results(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, in the same batch: with results they wait for an answer, without they come."""
    held = Held(monkeypatch)
    async with postgres.backend() as backend:
        async with (
            ffc.subscribe(backend, A, results=True) as slow,
            ffc.subscribe(backend, results=True) as slow_too,
            ffc.subscribe(backend, A) as stream,
            ffc.subscribe(backend) as everything,
        ):
            for _ in range(3):
                items = [done(**MINE, result=b"r") for _ in range(20)]
                await postgres.announce(*items)
                for one in (stream, everything):
                    assert [p.execution_id for p in await some(one, 20)] == [item.execution_id for item in items]
            assert held.asked > 0
            assert slow.stats().delivered == slow_too.stats().delivered == 0
            held.go_on.set()
            for one in (slow, slow_too):
                assert {p.payload_bytes for p in await some(one, 60)} == {b"r"}
                assert one.stats().lost == 0


async def test_many_who_read_results_leave_a_connection_to_the_others(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More streams that catch up with slow results than the pool has connections."""
    held = Held(monkeypatch)
    await postgres.announce(*[done(**MINE, result=b"r") for _ in range(3)])
    async with PostgresBackend(postgres.url, pool_size=2) as backend:
        streams = [
            await backend.subscribe_completions_from(ffc.StreamCursor.beginning(), A, results=True) for _ in range(4)
        ]
        waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await eventually(lambda: held.asked > 0)
        async with ffc.subscribe(backend, A) as stream:
            await postgres.announce(item := done(**MINE))
            assert (await first(stream, 5)).execution_id == item.execution_id
            async with ffc.subscribe(backend, A, cursor=ffc.StreamCursor.beginning()) as stored:
                assert len(await some(stored, 4, 5)) == 4
            assert await backend.describe_execution(item.execution_id) is not None
        held.go_on.set()
        assert {item.payload_bytes for item in await asyncio.gather(*waiting)} == {b"r"}
        for stream in streams:
            await stream.aclose()


async def test_ends_without_a_row_reach_those_first_who_want_no_result(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in one look, with a stream opened earlier that wants their results."""
    held = Held(monkeypatch)
    items = [done(**MINE, outcome="cancelled", result=b"r", flow_id=None) for _ in range(3)]
    for item in items:
        await postgres.begins(item)
    async with postgres.backend(reconcile_interval=0.1) as backend:
        async with ffc.subscribe(backend, A, results=True) as slow, ffc.subscribe(backend, A) as stream:
            await postgres.cancels(*items)
            mine = {item.execution_id for item in items}
            assert {p.execution_id for p in await some(stream, 3)} == mine
            assert slow.stats().delivered == 0
            held.go_on.set()
            assert {(p.execution_id, p.payload_bytes) for p in await some(slow, 3)} == {(id_, b"r") for id_ in mine}


@pytest.mark.parametrize("push", [True, False], ids=["announced", "found"])
async def test_on_valkey_too_nobody_waits_for_anothers_results(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch, push: bool
) -> None:
    """Batch after batch while questions about results are not answered: announced, or met in the index."""
    go_on, asked = asyncio.Event(), 0
    real = ValkeyLookups.results

    async def results(lookups: ValkeyLookups, payloads: Sequence[ffc.CompletionPayload]) -> list[ffc.CompletionPayload]:
        nonlocal asked
        asked += 1
        await go_on.wait()
        return await real(lookups, payloads)

    monkeypatch.setattr(ValkeyLookups, "results", results)
    async with valkey.backend(reconcile_interval=0.1) as backend:
        async with (
            ffc.subscribe(backend, A, results=True) as slow,
            ffc.subscribe(backend, results=True) as slow_too,
            ffc.subscribe(backend, A) as stream,
            ffc.subscribe(backend) as everything,
        ):
            every: set[str] = set()
            for _ in range(3):
                items = {item.execution_id: item for item in (done(**MINE, result=b"r") for _ in range(20))}
                every |= set(items)
                for item in items.values():
                    await valkey.finish(item, push=push)
                for one in (stream, everything):
                    assert {p.execution_id for p in await some(one, 20)} == set(items)
            assert asked > 0
            assert slow.stats().delivered == slow_too.stats().delivered == 0
            go_on.set()
            for one in (slow, slow_too):
                assert {(p.execution_id, p.payload_bytes) for p in await some(one, 60)} == {
                    (id_, b"r") for id_ in every
                }
                assert one.stats().lost == 0
