"""Over a slow link, and where somebody has stored something very large: each piece comes through, and nobody waits for all."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.valkey import ValkeyBackend, commands, connection, index, portions, reconciler
from ffcompletion.backends.valkey.options import Options
from tests.worlds import ValkeyWorld, done, first
from tests.worlds.proxy import Proxy

INDEX = "ff:idx:{fp:%d}:lane:default:terminal"
# Of the link, in bytes a second, and what one question may take: so 150 KB is the most that ever comes of one.
RATE = 1_000_000
REQUEST_MS = 150


class Slow(Proxy):
    """Each connection carries so much towards the client, and no more."""

    @override
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write, due = writer.write, time.monotonic()

        def slowly(data: bytes | bytearray | memoryview) -> None:
            nonlocal due
            due = max(due, time.monotonic()) + len(data) / RATE
            write(data)

        async def drain() -> None:
            await asyncio.sleep(due - time.monotonic())

        writer.write = slowly  # type: ignore[method-assign]  # put in between
        writer.drain = drain  # type: ignore[method-assign]  # the same
        await super()._serve(reader, writer)


class Far(Proxy):
    """Whatever is asked is a while on its way, and answered at once."""

    @override
    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write, loop = writer.write, asyncio.get_running_loop()

        def later(data: bytes | bytearray | memoryview) -> None:
            loop.call_later(0.08, write, bytes(data))

        if writer in self._writers:
            # Towards the server.
            writer.write = later  # type: ignore[method-assign]  # put in between
        await super()._pipe(reader, writer)


@contextmanager
def link(valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL that leads over one."""
    host, port = valkey.url.split("//")[1].split("/")[0].split(":")
    monkeypatch.setattr(connection, "_REQUEST_MS", REQUEST_MS)
    for module in (portions, index):
        monkeypatch.setattr(module, "_QUICK_S", REQUEST_MS / 8_000)
    with Slow((host, int(port))) as proxy:
        yield f"valkey://127.0.0.1:{proxy.port}"


@asynccontextmanager
async def slow(valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ValkeyBackend]:
    with link(valkey, monkeypatch) as url:
        async with ValkeyBackend(url, reconcile_interval=0.1) as backend:
            yield backend


async def test_what_ends_silently_as_soon_as_a_stream_is_open_far_away(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a server that was asked for its time long before it told it: it is not taken for older than the stream."""
    monkeypatch.setattr(reconciler, "_CLOCKS_MS", 0)
    host, port = valkey.url.split("//")[1].split("/")[0].split(":")
    with Far((host, int(port))) as proxy:
        async with ValkeyBackend(f"valkey://127.0.0.1:{proxy.port}", reconcile_interval=0.1) as backend:
            async with ffc.subscribe(backend) as stream, ffc.subscribe(backend, ffc.ScannerFilter("a")) as filtered:
                item = done(namespace="a", flow_id=None)
                await valkey.finish(item, push=False)
                for each in (stream, filtered):
                    assert (await first(each)).execution_id == item.execution_id


async def test_an_index_that_is_more_than_a_slow_link_carries_at_once(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a megabyte of it, of which no question brings all: what ended silently is found."""
    async with slow(valkey, monkeypatch) as backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        at = str(round(time.time() * 1000))
        for partition in range(256):
            words = [word for _ in range(30) for word in (at, f"{{fp:{partition}}}:{uuid.uuid4()}")]
            await valkey.command("ZADD", INDEX % partition, *words)
        item = done(namespace="a", flow_id=None)
        await valkey.finish(item, push=False)
        assert (await first(stream)).execution_id == item.execution_id


async def test_entries_of_which_each_takes_its_time(valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside them what ended silently is found, and what is announced does not wait."""
    async with slow(valkey, monkeypatch) as backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
        at = str(round(time.time() * 1000))
        for number in range(4):
            await valkey.command("ZADD", INDEX % 9, at, f"{number}" * 60_000)
        # One that takes longer than a question may.
        await valkey.command("ZADD", INDEX % 9, at, "x" * 400_000)
        item = done(namespace="a", flow_id=None)
        await valkey.finish(item, push=False)
        waits: list[float] = []

        async def announce() -> None:
            while True:
                await valkey.announce(done(namespace="a"))
                await asyncio.sleep(0.1)

        announcing = asyncio.create_task(announce())
        try:
            async with asyncio.timeout(30):
                while True:
                    began = time.monotonic()
                    if (await anext(stream)).execution_id == item.execution_id:
                        break
                    waits.append(time.monotonic() - began)
        finally:
            announcing.cancel()
        assert max(waits, default=0.0) < 5


async def test_a_result_that_takes_longer_than_a_question(valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants it gets it; who wants others' gets them, and who wants none does not wait."""
    async with slow(valkey, monkeypatch) as backend:
        everything = await backend.subscribe_completions(results=True)
        its = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"), results=True)
        plain = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        large = done(namespace="mallory", result=b"x" * 400_000)
        many = [done(namespace="a", result=b"%d" % number * 40_000) for number in range(8)]
        for item in (large, *many):
            await valkey.write(item)
        # Near enough together that their results are asked for in one question.
        await asyncio.gather(*(valkey.publish(item) for item in (large, *many)))
        for _ in many:
            assert (await first(plain)).payload_bytes is None
        for stream, expected in ((everything, [large, *many]), (its, many)):
            # Side by side they arrive in any order.
            got = {each.execution_id: each.payload_bytes for each in [await first(stream) for _ in expected]}
            assert got == {item.execution_id: item.result for item in expected}


async def test_what_takes_its_time_among_much_that_does_not(
    valkey: ValkeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in one question with it, that does not take away the time that it needs."""
    many = [("GET", f"key {number}") for number in range(40)]
    value = b"x" * 400_000
    await valkey.command("SET", "large", value)
    with link(valkey, monkeypatch) as url:
        asked = commands.Commands(Options.from_url(url), patient=True)
        try:
            assert await asked.execute([*many, ("GET", "large"), *many]) == [*[None] * 40, value, *[None] * 40]
        finally:
            await asked.aclose()
