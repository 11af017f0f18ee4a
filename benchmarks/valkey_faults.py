"""Valkey: what many filters, faults, reconciling and poison cost."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import ffcompletion as ffc
from benchmarks import producer
from benchmarks.table import Row, consume, median
from benchmarks.valkey import COUNT
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.connection import Client, make_client
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.options import Options
from ffcompletion.backends.valkey.wire import decode
from tests.worlds import ValkeyWorld, done
from tests.worlds.proxy import Proxy

KILLS = 15
MUTES = 5


@asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Client]:
    client = await make_client(Options.from_url(url))
    yield client
    await client.close()


async def _rate(url: str, filters: list[ffc.ScannerFilter], streams: int) -> float:
    """Announcements per second, until every stream has had all of its own."""
    async with ValkeyBackend(url, buffer_size=COUNT * 2) as backend:
        wanted = list(itertools.islice(itertools.cycle(filters), streams))
        opened = [await backend.subscribe_completions_filtered(each) for each in wanted]
        process = producer.start("publish", url, COUNT)
        # Only the first filter admits anything: the others are decided, and that is what is measured.
        reading = [
            asyncio.ensure_future(consume(stream, COUNT))
            for stream, each in zip(opened, wanted, strict=True)
            if each == filters[0]
        ]
        await asyncio.sleep(0)
        started = producer.go(process)
        await asyncio.wait_for(asyncio.gather(*reading), 300)
        took = time.perf_counter() - started
        producer.finish(process)
    return COUNT / took


async def filters(url: str) -> list[Row]:
    """A hundred streams with ten filters, against one filtered stream."""
    producer.write_keys(url, COUNT)
    ten = [ffc.ScannerFilter("a", ("k", "v")), *(ffc.ScannerFilter(f"b{n}", ("k", "v")) for n in range(9))]
    one, many = [], []
    for _ in range(3):
        one.append(await _rate(url, ten[:1], 1))
        many.append(await _rate(url, ten, 100))
    cost = median([a / b for a, b in zip(one, many, strict=True)])
    return [
        Row(
            what=f"100 streams with 10 filters by namespace and tag, {COUNT:,}: their cost against one such stream",
            ours=f"{median(many):,.0f}/s",
            bare=f"{median(one):,.0f}/s",
            ratio=f"{cost:.2f}×",
            floor="1.5×",
        ),
        await _filtered_latency(url),
    ]


async def _filtered_latency(url: str) -> Row:
    rounds = 1000
    plain, filtered, trips = [], [], []
    async with ValkeyBackend(url) as backend, _client(url) as client:
        everything = await backend.subscribe_completions()
        mine = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v")))
        for number in range(rounds):
            raw = producer.message(number)
            first, second = (asyncio.ensure_future(anext(aiter(stream))) for stream in (everything, mine))
            await asyncio.sleep(0)
            started = time.perf_counter()
            await client.custom_command(["PUBLISH", "ff:dag:completions", raw])
            await first
            plain.append(time.perf_counter() - started)
            await second
            filtered.append(time.perf_counter() - started)
            started = time.perf_counter()
            await client.custom_command(["HGET", "x", "y"])
            trips.append(time.perf_counter() - started)
        await everything.aclose()
        await mine.aclose()
    return Row(
        what=f"publish to yield, filtered by namespace and tag, p50 of {rounds}, against unfiltered plus two round trips",
        ours=f"{median(filtered) * 1e6:.0f} µs",
        bare=f"{(median(plain) + 2 * median(trips)) * 1e6:.0f} µs",
        ratio=f"{median(filtered) / (median(plain) + 2 * median(trips)):.2f}×",
        floor="1×",
    )


async def _heard(world: ValkeyWorld, stream: ffc.CompletionStream) -> None:
    """Announce until the stream tells of one that was announced since."""
    sent: set[str] = set()
    waiting = asyncio.ensure_future(anext(aiter(stream)))
    while True:
        item = done()
        sent.add(item.execution_id)
        await world.publish(item)
        finished, _ = await asyncio.wait({waiting}, timeout=0.01)
        if finished:
            if waiting.result().execution_id in sent:
                return
            waiting = asyncio.ensure_future(anext(aiter(stream)))


async def faults(url: str) -> list[Row]:
    """After CLIENT KILL, and on a half-open connection."""
    live, missed, noticed, again = [], [], [], []
    world = ValkeyWorld(url)
    async with ValkeyBackend(url) as backend, ffc.subscribe(backend) as stream:
        for _ in range(KILLS):
            await world.drop_connections()
            began = time.perf_counter()
            gone = done()
            await world.finish(gone)
            heard = asyncio.ensure_future(_first_pushed(world, stream, gone.execution_id))
            arrived, pushed = await asyncio.wait_for(heard, 20)
            live.append(pushed - began)
            missed.append(max(0.0, arrived - pushed))
            await asyncio.sleep(0.6)
    host, _, port = url.removeprefix("valkey://").partition(":")
    with Proxy((host, int(port))) as proxy:
        async with ValkeyBackend(f"valkey://127.0.0.1:{proxy.port}") as backend, ffc.subscribe(backend) as stream:
            for _ in range(MUTES):
                await _heard(world, stream)
                proxy.freeze()
                began = time.perf_counter()
                while backend.stats().state is ffc.BackendState.LIVE:
                    await asyncio.sleep(0.005)
                noticed.append(time.perf_counter() - began)
                # As when the way is clear again for new connections only.
                proxy.cut()
                proxy.thaw()
                await _heard(world, stream)
                again.append(time.perf_counter() - began)
    await world.close()
    return [
        Row(
            what=f"live again after CLIENT KILL, median of {KILLS}",
            ours=f"{median(live):.2f} s",
            floor="0.2 s",
            goal="0.1 s",
        ),
        Row(what="what was missed is delivered, after that", ours=f"{median(missed):.2f} s", floor="1 s"),
        Row(what=f"a half-open connection is noticed, median of {MUTES}", ours=f"{median(noticed):.1f} s"),
        Row(what="and the stream live again", ours=f"{median(again):.1f} s", floor="5 s", goal="3 s"),
    ]


async def _first_pushed(world: ValkeyWorld, stream: ffc.CompletionStream, gone: str) -> tuple[float, float]:
    """When the missed one arrived, and when the first that was only published did."""
    arrived = pushed = 0.0
    waiting = asyncio.ensure_future(anext(aiter(stream)))
    while not arrived or not pushed:
        if not pushed:
            await world.publish(done())
        finished, _ = await asyncio.wait({waiting}, timeout=0.005)
        if finished:
            if waiting.result().execution_id == gone:
                arrived = time.perf_counter()
            else:
                pushed = pushed or time.perf_counter()
            waiting = asyncio.ensure_future(anext(aiter(stream)))
    waiting.cancel()
    await asyncio.wait({waiting})
    return arrived, pushed


async def reconciling(url: str) -> list[Row]:
    """One look at 256 partitions of an index that has nothing new; and poison."""
    took: list[float] = []
    async with _client(url) as client:

        async def ask(commands: object) -> list[object]:
            from ffcompletion.backends.valkey.connection import batch

            return await batch(client, commands)  # type: ignore[arg-type]

        index = TerminalIndex(ask, ())
        for _ in range(200):
            started = time.perf_counter()
            now_ms = (await index.look()).server_ms
            await index.page(now_ms - 5_000, 1 << 53)
            took.append(time.perf_counter() - started)
    worst = 0.0
    poison = [b"{" * 5_000, b"[" * 5_000 + b"]" * 5_000, b'{"x":' * 5_000 + b"1" + b"}" * 5_000, b"\x80" * 1_000_000,
              b'{"execution_id":"' + b"x" * 1_000_000 + b'"}']  # fmt: skip
    for raw in poison:
        tries = []
        for _ in range(20):
            started = time.perf_counter()
            decode(raw)
            tries.append(time.perf_counter() - started)
        worst = max(worst, median(tries))
    return [
        Row(
            what="reconcile: time, lanes and 256 partitions on an idle server, p50 of 200",
            ours=f"{median(took) * 1000:.1f} ms",
            floor="10 ms",
        ),
        Row(
            what="poison (nested 5,000 deep, a megabyte, no UTF-8): the worst kind, median of 20",
            ours=f"{worst * 1000:.3f} ms",
            floor="1 ms",
        ),
    ]
