"""How much one stream holds, whatever is announced to it: in items and in bytes, never more than it was given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres.pages import Page, PageReader
from ffcompletion.backends.postgres.silent_reading import SilentReading
from ffcompletion.backends.postgres.source import Source as PostgresSource
from ffcompletion.backends.postgres.states import StreamState
from ffcompletion.backends.valkey.source import Source as ValkeySource
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery import buffer
from ffcompletion.delivery.stream import Subscription as Handle
from tests.worlds import PostgresWorld, ValkeyWorld, done, eventually

ROOM = 7
BYTES = 64 << 10
KIB = 1 << 10


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can reach in no time."""
    monkeypatch.setattr(buffer, "MOST_BYTES", BYTES)


def held(stream: ffc.Subscription) -> list[int]:
    """Sizes of the results that the stream holds, wherever they wait."""
    assert isinstance(stream, Handle)
    source = stream._source
    assert isinstance(source, PostgresSource | ValkeySource)
    batches: list[Sequence[CompletionPayload]] = [batch for batch, _, _ in source._buffer._queue]
    batches.append(stream._hand.batch)
    found: list[bytes | None] = []
    if isinstance(source, PostgresSource):
        batches += source._found._queue
        for page in source._stored:
            assert isinstance(page, Page)
            found += [result.data for result in (page._answers.results or {}).values()]
    found += [item.payload_bytes for batch in batches for item in batch]
    # What was decoded of a page is held once.
    return [len(data) for data in {id(data): data for data in found if data}.values()]


@contextlib.asynccontextmanager
async def watched(*streams: ffc.Subscription) -> AsyncGenerator[Callable[[], None]]:
    """Look at these all the time."""

    def look() -> None:
        for stream in streams:
            assert stream.stats().buffered <= ROOM
            sizes = held(stream)
            # A single result that is larger than all the room is held alone.
            assert sum(sizes) <= BYTES or len(sizes) == 1, sizes

    async def on() -> None:
        while True:
            look()
            await asyncio.sleep(0.0005)

    task = asyncio.create_task(on())
    try:
        yield look
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


def results(count: int) -> list[bytes]:
    """Small ones, large ones, and some that are larger than all the room."""
    return [bytes((1, 10, 40, 1, 100, 30, 0)[number % 7] * KIB + 1) for number in range(count)]


async def read_all(stream: ffc.Subscription, wanted: dict[str, int], look: Callable[[], None]) -> None:
    """Until all of these have come, each with its result."""
    missing = dict(wanted)
    async with asyncio.timeout(60):
        while missing:
            item = await anext(stream)
            look()
            if item.execution_id in missing:
                assert len(item.payload_bytes or b"") == missing.pop(item.execution_id)
            if len(missing) % 3 == 0:
                await asyncio.sleep(0.001)


@pytest.mark.usefixtures("little_room")
async def test_postgres_holds_what_it_may_and_no_more(postgres: PostgresWorld) -> None:
    """Live, overflowed, catching up, joining while more is written, and with what ends without a row: in any mixture."""
    early = [done(namespace="a", result=result) for result in results(40)]
    late = [done(namespace="a", result=result) for result in results(40)]
    silent = [done(namespace="a", result=result, outcome="cancelled", flow_id=None) for result in results(14)]
    sizes = {item.execution_id: len(item.result or b"") for item in (*early, *late, *silent)}
    for item in silent:
        await postgres.begins(item)
    async with postgres.backend(buffer_size=ROOM, reconcile_interval=0.05) as backend:
        async with (
            ffc.subscribe(backend, results=True) as live,
            ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as tenant,
        ):
            async with watched(live, tenant):
                await postgres.announce(*early)
                await postgres.cancels(*silent)
                await eventually(lambda: live.stats().overflows > 0 and tenant.stats().overflows > 0)
                beginning = ffc.StreamCursor.beginning()
                async with ffc.subscribe(backend, cursor=beginning, results=True) as resumed:
                    async with watched(resumed) as look:
                        writing = asyncio.ensure_future(postgres.announce(*late))
                        rows = {item.execution_id: sizes[item.execution_id] for item in (*early, *late)}
                        await asyncio.gather(
                            read_all(live, sizes, look), read_all(tenant, sizes, look), read_all(resumed, rows, look)
                        )
                        await writing


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("may_ask_sizes", [True, False])
async def test_valkey_holds_what_it_may_and_no_more(valkey: ValkeyWorld, may_ask_sizes: bool) -> None:
    """Live, overflowed and joining while more is written; also where nobody may ask how large results are."""
    rights = ["on", ">pw", "allkeys", "allchannels", "allcommands"] + ([] if may_ask_sizes else ["-strlen"])
    await valkey.command("ACL", "SETUSER", "reader", "reset", *rights)
    early = [done(namespace="a", result=result) for result in results(40)]
    late = [done(namespace="a", result=result) for result in results(40)]
    sizes = {item.execution_id: len(item.result or b"") for item in (*early, *late)}
    options = {"buffer_size": ROOM, "reconcile_interval": 0.05, "username": "reader", "password": "pw"}
    try:
        async with valkey.backend(**options) as backend:
            async with (
                ffc.subscribe(backend, results=True) as live,
                ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as tenant,
                watched(live, tenant) as look,
            ):
                for item in early:
                    await valkey.finish(item)
                await eventually(lambda: live.stats().overflows > 0 and tenant.stats().overflows > 0)

                async def write() -> None:
                    for item in late:
                        await valkey.finish(item)

                writing = asyncio.ensure_future(write())
                await asyncio.gather(read_all(live, sizes, look), read_all(tenant, sizes, look))
                await writing
    finally:
        await valkey.command("ACL", "DELUSER", "reader")


@pytest.mark.usefixtures("little_room")
async def test_a_result_that_is_held_alone_is_read_beside_none(
    postgres: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is on its way, what ends without a row is offered to the stream as well, and waits for its turn."""
    large, silent = done(result=bytes(100 * KIB)), done(result=bytes(30 * KIB), outcome="cancelled")
    await postgres.begins(silent)
    await postgres.announce(large)
    ((low,),) = await postgres.sql("SELECT min(event_id) FROM ff_completion_event")
    offered: list[int] = []
    sources: list[PostgresSource] = []
    states: list[StreamState] = []
    was_read = False
    give, read = SilentReading._give, PageReader.read

    async def given(*args: Any) -> int:
        offered.append(await give(*args))
        return offered[-1]

    async def read_slowly(*args: Any) -> Page | None:
        nonlocal was_read
        page = await read(*args)
        if page:
            states.extend(source._standing.state for source in sources)
            await postgres.cancels(silent)
            await eventually(lambda: bool(offered))
            was_read = True
        return page

    monkeypatch.setattr(SilentReading, "_give", given)
    monkeypatch.setattr(PageReader, "read", read_slowly)
    async with postgres.backend(reconcile_interval=0.05) as backend:
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low - 1), results=True) as stream:
            assert isinstance(stream, Handle)
            assert isinstance(stream._source, PostgresSource)
            sources.append(stream._source)
            async with watched(stream) as look:
                came = {(await anext(stream)).execution_id}
                await eventually(lambda: was_read)
                # What was in hand by then still is.
                look()
                came.add((await anext(stream)).execution_id)
                assert came == {large.execution_id, silent.execution_id}
                assert states == [StreamState.JOINING]
