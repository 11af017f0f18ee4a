"""Valkey: against glide's bare callback, and against asking for one field after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from glide import GlideClient, GlideClientConfiguration, NodeAddress, PubSubMsg

import ffcompletion as ffc
from benchmarks import producer
from benchmarks.table import Row, consume, median
from ffcompletion.backends.valkey import ValkeyBackend

COUNT = 100_000
ROUNDS = 5


async def _bare(url: str, callback: Callable[[PubSubMsg, object], None] | None) -> GlideClient:
    host, _, port = url.removeprefix("valkey://").partition(":")
    modes = GlideClientConfiguration.PubSubChannelModes
    subscriptions = callback and GlideClientConfiguration.PubSubSubscriptions(
        {modes.Exact: {"ff:dag:completions"}}, callback, None
    )
    client = await GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress(host, int(port))], request_timeout=5000, pubsub_subscriptions=subscriptions
        )
    )
    if callback:
        await asyncio.sleep(0.2)
    return client


async def _bare_rate(url: str) -> float:
    seen = 0
    finished = asyncio.get_running_loop().create_future()

    def callback(_: PubSubMsg, __: object) -> None:
        nonlocal seen
        seen += 1
        if seen == COUNT:
            finished.set_result(None)

    client = await _bare(url, callback)
    process = producer.start("publish", url, COUNT)
    started = producer.go(process)
    await asyncio.wait_for(finished, 60)
    took = time.perf_counter() - started
    producer.finish(process)
    await client.close()
    return COUNT / took


async def _our_rate(url: str, wanted: ffc.ScannerFilter | None = None, streams: int = 1) -> float:
    async with ValkeyBackend(url, buffer_size=COUNT * 2) as backend:
        opened = [
            await (backend.subscribe_completions_filtered(wanted) if wanted else backend.subscribe_completions())
            for _ in range(streams)
        ]

        process = producer.start("publish", url, COUNT)
        reading = [asyncio.ensure_future(consume(stream, COUNT)) for stream in opened]
        await asyncio.sleep(0)
        started = producer.go(process)
        await asyncio.wait_for(asyncio.gather(*reading), 120)
        took = time.perf_counter() - started
        producer.finish(process)
    return COUNT / took


async def throughput(url: str) -> list[Row]:
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(await _bare_rate(url))
        ours.append(await _our_rate(url))
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return [
        Row(
            what=f"unfiltered, one stream, {COUNT:,} announcements, against counting in the bare callback; median of {ROUNDS}",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(bare):,.0f}/s",
            ratio=f"{median(ratios):.2f}",
            floor="0.8",
            goal="0.95",
        )
    ]


async def _iterate(stream: ffc.CompletionStream) -> AsyncIterator[float]:
    async for _ in stream:
        yield time.perf_counter()


async def _await_event(arrived: asyncio.Event) -> AsyncIterator[float]:
    while True:
        await arrived.wait()
        arrived.clear()
        yield time.perf_counter()


async def _beside(times: AsyncIterator[float], measure: Callable[[asyncio.Queue[float]], Awaitable[float]]) -> float:
    yielded = asyncio.Queue[float]()

    async def keep() -> None:
        async for at in times:
            yielded.put_nowait(at)

    keeping = asyncio.ensure_future(keep())
    try:
        return await measure(yielded)
    finally:
        keeping.cancel()


async def latency(url: str) -> list[Row]:
    rounds = 1000
    publisher = await _bare(url, None)
    raw = producer.message(1)

    async def measure(yielded: asyncio.Queue[float]) -> float:
        took: list[float] = []
        for _ in range(rounds):
            started = time.perf_counter()
            await publisher.custom_command(["PUBLISH", "ff:dag:completions", raw])
            took.append(await yielded.get() - started)
        return median(took)

    arrived = asyncio.Event()

    def callback(_: PubSubMsg, __: object) -> None:
        arrived.set()

    ours, bare = [], []
    for _ in range(ROUNDS):
        # One after the other, so that each is measured alone. Either way a task of its own consumes, and reads the clock.
        async with ValkeyBackend(url) as backend, ffc.subscribe(backend) as stream:
            ours.append(await _beside(_iterate(stream), measure))
        client = await _bare(url, callback)
        bare.append(await _beside(_await_event(arrived), measure))
        await client.close()
    await publisher.close()
    ratio = median([a / b for a, b in zip(ours, bare, strict=True)])
    return [
        Row(
            what=f"publish to yield, p50 of {rounds}, against the bare callback and an event; median of {ROUNDS}",
            ours=f"{median(ours) * 1e6:.0f} µs",
            bare=f"{median(bare) * 1e6:.0f} µs",
            ratio=f"{ratio:.2f}×",
            floor="1.2×",
            goal="1.1×",
        )
    ]


async def filtered(url: str) -> list[Row]:
    producer.write_keys(url, COUNT)
    wanted = ffc.ScannerFilter("a", ("k", "v"))
    ours, plain, one_by_one = [], [], []
    for _ in range(3):
        plain.append(await _our_rate(url))
        ours.append(await _our_rate(url, wanted))
        client = await _bare(url, None)
        some = 4000
        started = time.perf_counter()
        for number in range(some):
            key = f"ff:exec:{{fp:{number % 256}}}:{producer.execution(number)}"
            await client.custom_command(["HGET", f"{key}:core", "namespace"])
            await client.custom_command(["HGET", f"{key}:tags", "k"])
        one_by_one.append(some / (time.perf_counter() - started))
        await client.close()
    return [
        Row(
            what=f"filtered by namespace and tag, all match, {COUNT:,}, against HGETs one by one; median of 3",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(one_by_one):,.0f}/s",
            ratio=f"{median([a / b for a, b in zip(ours, one_by_one, strict=True)]):.1f}×",
            floor="12×",
            goal="25×",
        ),
        Row(
            what="the same, against our own unfiltered rate",
            ours=f"{median(ours):,.0f}/s",
            bare=f"{median(plain):,.0f}/s",
            ratio=f"{median([a / b for a, b in zip(ours, plain, strict=True)]):.2f}",
            floor="0.25",
            goal="0.5",
        ),
    ]


async def streams(url: str) -> list[Row]:
    count, burst = 1000, 1000
    async with ValkeyBackend(url) as backend:
        opened = [await backend.subscribe_completions() for _ in range(count)]

        reading = [asyncio.ensure_future(consume(stream, burst)) for stream in opened]
        await asyncio.sleep(0)
        process = producer.start("publish", url, burst)
        started = producer.go(process)
        await asyncio.wait_for(asyncio.gather(*reading), 120)
        took = time.perf_counter() - started
        producer.finish(process)
    return [
        Row(
            what=f"{count:,} streams on one backend, a burst of {burst:,}: deliveries",
            ours=f"{count * burst / took:,.0f}/s",
            floor="2,000,000/s",
            goal="5,000,000/s",
        )
    ]
