"""The contract's seven clauses, held against every backend on real servers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.contract.protocols import Backend
from tests.worlds import World, done, eventually, first, nothing, some


async def test_clause_1_live_when_subscribe_returns(world: World) -> None:
    """What is announced the moment after subscribe returned is delivered, twenty times in a row."""
    for _ in range(20):
        async with world.backend() as backend, ffc.subscribe(backend) as stream:
            item = done()
            await world.announce(item)
            assert (await first(stream)).execution_id == item.execution_id


async def test_clause_2_yields_payloads_in_order(world: World) -> None:
    """Payloads carry what was announced, in order."""
    items = [done(outcome=outcome) for outcome in ("success", "failed", "cancelled", "expired", "skipped")]
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        await world.announce(*items)
        got = await some(stream, len(items))
    assert [(p.execution_id, p.outcome, p.flow_id) for p in got] == [
        (i.execution_id, i.outcome, i.flow_id) for i in items
    ]
    assert [p.kind.value for p in got] == [i.outcome for i in items]


async def test_clause_2_survives_dropped_connections(world: World) -> None:
    """The server cuts every connection; the stream goes on and never shows it."""
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        for _ in range(3):
            await world.drop_connections()
            waiting = asyncio.ensure_future(first(stream, 20))
            while not waiting.done():
                await world.announce(done())
                await asyncio.wait({waiting}, timeout=0.05)
            await waiting


async def test_clause_3_streams_are_independent(world: World) -> None:
    """Two streams both receive; closing one leaves the other."""
    async with world.backend() as backend, ffc.subscribe(backend) as one:
        async with ffc.subscribe(backend) as other:
            item = done()
            await world.announce(item)
            assert (await first(one)).execution_id == (await first(other)).execution_id == item.execution_id
        item = done()
        await world.announce(item)
        assert (await first(one)).execution_id == item.execution_id


async def test_clause_3_closing_releases_the_server(world: World) -> None:
    """After the last stream is closed, nothing is held on the server."""
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        assert await world.connections() >= 1
        await stream.aclose()
        await eventually(lambda: _gone(world))


async def _gone(world: World) -> bool:
    return await world.connections() == 0


async def test_clause_3_close_twice_and_while_waiting(world: World) -> None:
    """A task that waits when its stream is closed gets StopAsyncIteration; a second close is nothing."""
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        waiting = [asyncio.ensure_future(_next(stream)) for _ in range(2)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await stream.aclose()
        await stream.aclose()
        assert time.monotonic() - started < 10
        assert await asyncio.gather(*waiting) == ["stopped", "stopped"]
        assert await _next(stream) == "stopped"


async def _next(stream: ffc.CompletionStream) -> str:
    try:
        await stream.__anext__()
    except StopAsyncIteration:
        return "stopped"
    return "item"


async def test_clause_3_dropping_warns_and_releases(world: World) -> None:
    """A stream that is dropped says so and lets go of the server."""
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del stream
            gc.collect()
        await eventually(lambda: _gone(world))


async def test_clause_3_subscribe_again_after_closing(world: World) -> None:
    """Drop, then subscribe again, many times, fast."""
    async with world.backend() as backend:
        for _ in range(10):
            async with ffc.subscribe(backend) as stream:
                item = done()
                await world.announce(item)
                assert (await first(stream)).execution_id == item.execution_id


async def test_clause_3_cancelled_wait_loses_nothing(world: World) -> None:
    """A wait that is cancelled a hundred times misses no completion."""
    items = [done() for _ in range(50)]
    got: list[str] = []
    async with world.backend() as backend, ffc.subscribe(backend) as stream:
        announcing = asyncio.ensure_future(world.announce(*items))
        async with asyncio.timeout(30):
            while len(got) < len(items):
                try:
                    got.append((await asyncio.wait_for(stream.__anext__(), 0.0005)).execution_id)
                except TimeoutError:
                    continue
        await announcing
    assert got == [item.execution_id for item in items]


async def test_clause_4_slow_consumer_delays_nobody(world: World) -> None:
    """One consumer reads nothing while another reads everything; the slow one's counters tell."""
    count = 300
    items = [done() for _ in range(count)]
    async with world.backend(buffer_size=50) as backend:
        async with ffc.subscribe(backend) as slow, ffc.subscribe(backend) as quick:
            announcing = asyncio.ensure_future(world.announce(*items))
            got = await some(quick, count, 30)
            await announcing
            assert [p.execution_id for p in got] == [i.execution_id for i in items]
            stats = slow.stats()
            assert stats.delivered == 0
            assert stats.buffered <= 50
            if world.name != "valkey":
                late = await some(slow, count, 30)
                assert [p.execution_id for p in late] == [i.execution_id for i in items]


async def test_clause_5_filters_isolate(world: World) -> None:
    """By namespace, by tag and by both, each stream gets exactly its own."""
    a, b = {"namespace": "a"}, {"namespace": "b"}
    one, two = {"tags": {"i": "1"}}, {"tags": {"i": "2"}}
    items = [done(**a, **one), done(**a, **two), done(**b, **one), done(**b), done(), done(**one), done(**a, **one)]
    filters = [
        ffc.ScannerFilter("a"),
        ffc.ScannerFilter(instance_tag=("i", "1")),
        ffc.ScannerFilter("a", ("i", "1")),
        ffc.ScannerFilter("c"),
        ffc.ScannerFilter.NOOP,
    ]
    async with world.backend() as backend:
        streams = [await backend.subscribe_completions_filtered(wanted) for wanted in filters]
        await world.announce(*items)
        for stream, wanted in zip(streams, filters, strict=True):
            key = wanted.tag_key
            expected = [i for i in items if wanted.matches(i.namespace, i.tags.get(key) if key else None)]
            got = await some(stream, len(expected))
            assert [p.execution_id for p in got] == [i.execution_id for i in expected], wanted
        # Every filter but "c" admits the last item, so nothing that it must not see came before.
        assert streams[3].stats().delivered == 0
        for stream in streams:
            await stream.aclose()


async def test_clause_5_custom_filter_and_one_that_raises(world: World) -> None:
    """Anybody's filter works; one that raises admits nothing and ends nothing."""

    class Odd:
        tag_key = "n"

        def is_noop(self) -> bool:
            return False

        def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
            if tag_value == "boom":
                raise RuntimeError("boom")
            return tag_value is not None and int(tag_value) % 2 == 1

    items = [done(namespace="a", tags={"n": n}) for n in ("1", "2", "boom", "3")]
    async with world.backend() as backend, ffc.subscribe(backend, Odd()) as stream:
        await world.announce(*items)
        assert [p.execution_id for p in await some(stream, 2)] == [items[0].execution_id, items[3].execution_id]
        stats = stream.stats()
        assert (stats.delivered, stats.filtered, stats.undecided) == (2, 1, 1)


async def test_clause_6_no_publish_method(world: World) -> None:
    """No backend publishes; the in-memory one alone has ``emit``."""
    async with world.backend() as backend:
        names = {name for name, _ in inspect.getmembers(backend) if not name.startswith("_")}
        assert not names & {"publish", "announce", "notify", "send"}
        assert ("emit" in names) == (world.name == "memory")


async def test_clause_7_assertion_and_counters(world: World) -> None:
    """Every backend passes the assertion, and its counters move."""
    async with world.backend() as backend:
        ffc.assert_completion_backend(backend)
        assert isinstance(backend, ffc.CompletionBackend)
        assert isinstance(backend, ffc.ResumableCompletionBackend) == world.resumable
        async with ffc.subscribe(backend) as stream:
            assert isinstance(stream, ffc.CompletionStream)
            await world.announce(done(), done())
            await some(stream, 2)
            stats = backend.stats()
            assert (stats.state, stats.streams, stats.received) == (ffc.BackendState.LIVE, 1, 2)
        assert backend.stats().state is ffc.BackendState.IDLE
    assert backend.stats().state is ffc.BackendState.CLOSED


def test_what_is_inherited_unwritten_is_missing() -> None:
    """Of a Protocol's methods only the refusing of filters does something by itself."""

    class Nothing(ffc.CompletionBackend):
        pass

    class All(ffc.Backend):
        pass

    class Enough(ffc.ResumableCompletionBackend):
        @override
        async def subscribe_completions(self, /) -> ffc.CompletionStream:
            raise NotImplementedError

    unwritten: list[type] = [Nothing, All, Enough]
    faults = []
    for kind in unwritten:
        try:
            ffc.assert_completion_backend(kind())
        except TypeError as exc:
            faults.append(str(exc))
    assert faults == [
        "Nothing is no CompletionBackend: subscribe_completions is missing",
        "All is no CompletionBackend: subscribe_completions is missing; subscribe_completions_filtered is missing",
    ]


async def test_a_closed_backend_ends_its_streams_and_refuses_new_ones(world: World) -> None:
    """Closing the backend is asking for the end of its streams."""
    backend: Backend = world.backend()
    async with backend:
        stream = await backend.subscribe_completions()
        waiting = asyncio.ensure_future(_next(stream))
        await asyncio.sleep(0)
        await backend.aclose()
        assert await asyncio.wait_for(waiting, 30) == "stopped"
        with pytest.raises(ffc.Unavailable, match="closed"):
            await backend.subscribe_completions()
        await stream.aclose()


async def test_results_reach_only_those_who_ask(world: World) -> None:
    """``results=True`` brings the stored bytes; without it there are none."""
    async with world.backend() as backend:
        plain = await backend.subscribe_completions()
        rich = await backend.subscribe_completions(results=True)
        await world.announce(done(result=b"\x00\xff"), done())
        assert [p.payload_bytes for p in await some(plain, 2)] == [None, None]
        assert [p.payload_bytes for p in await some(rich, 2)] == [b"\x00\xff", None]
        await plain.aclose()
        await rich.aclose()


async def test_the_observer_hears_each_change_of_state(world: World) -> None:
    """And what it raises harms nobody."""
    heard: list[str] = []

    def observer(event: ffc.BackendEvent) -> None:
        heard.append(event.state.value)
        raise RuntimeError("observer")

    async with world.backend(observer=observer) as backend, ffc.subscribe(backend) as stream:
        await world.announce(done())
        await first(stream)
    expected = ["live", "idle", "closed"] if world.name == "memory" else ["connecting", "live", "idle", "closed"]
    assert heard == expected


async def test_resuming_from_a_cursor(world: World) -> None:
    """From the beginning, from a stored cursor, from now: nothing lost, nothing repeated, on to live."""
    if not world.resumable:
        async with world.backend() as backend:
            with pytest.raises(ffc.Unavailable, match="no log"):
                async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()):
                    pass
        return
    items = [done() for _ in range(10)]
    async with world.backend() as backend:
        await world.announce(*items[:5])
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            got = await some(stream, 5)
            cursor = got[2].cursor
            assert cursor is not None
            cursor = ffc.StreamCursor.from_bytes(cursor.to_bytes())
            await world.announce(*items[5:7])
            got += await some(stream, 2)
        async with ffc.subscribe(backend, cursor=cursor) as stream:
            again = await some(stream, 4)
            await world.announce(*items[7:])
            again += await some(stream, 3)
            assert stream.cursor == again[-1].cursor
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.empty()) as stream:
            await nothing(stream, done(), world)
    assert [p.execution_id for p in got] == [i.execution_id for i in items[:7]]
    assert [p.execution_id for p in again] == [i.execution_id for i in items[3:]]


async def test_a_cursor_of_another_backend_is_refused(world: World) -> None:
    """Validation, and nothing is opened."""
    if not world.resumable:
        return
    theirs = ffc.StreamCursor.stream(1, 1) if world.name != "memory" else ffc.StreamCursor.outbox(1)
    async with world.backend() as backend:
        with pytest.raises(ffc.Validation, match="cursor"):
            async with ffc.subscribe(backend, cursor=theirs):
                pass
        assert backend.stats().streams == 0


async def test_closing_that_is_cancelled_leaves_the_backend_whole(world: World) -> None:
    """Cancelled at every step of it, as a web framework does: the next stream is live, and nothing is left behind."""
    async with world.backend() as backend:
        for steps in range(1, 12):
            stream = await backend.subscribe_completions()
            closing = asyncio.ensure_future(stream.aclose())
            for _ in range(steps):
                await asyncio.sleep(0)
            while not closing.done():
                # Again and again: cancellation that is level-triggered.
                closing.cancel()
                await asyncio.sleep(0)
            async with ffc.subscribe(backend) as after:
                item = done()
                await world.announce(item)
                assert (await first(after)).execution_id == item.execution_id
        await eventually(lambda: backend.stats().streams == 0)
