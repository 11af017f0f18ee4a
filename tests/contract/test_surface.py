"""What a user of ``connect`` can write down: results, cursors, counters, options; the same on every backend."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion import options
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.postgres import backend as postgres
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.delivery.stream import Subscription
from tests.worlds import World, done

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("written", "backend", "beside"),
    [
        (options.MemoryOptions, MemoryBackend, set[str]()),
        (options.ValkeyOptions, ValkeyBackend, {"url"}),
        (options.PostgresOptions, PostgresBackend, {"conninfo"}),
    ],
)
def test_options_are_those_of_the_class(written: type, backend: Any, beside: set[str]) -> None:
    """By name and type, and all of them."""
    taken = get_type_hints(backend.__init__)
    del taken["return"]
    promised = get_type_hints(written, vars(options), vars(postgres))
    assert {name: kind for name, kind in taken.items() if name not in beside} == promised
    assert not set(promised) - set(inspect.signature(backend).parameters)


def test_what_every_backend_understands_is_taken_by_all_three() -> None:
    """So that swapping the URL in a test is enough."""
    given = options.CommonOptions(buffer_size=5, setup_timeout=3, observer=None)
    for url in "memory://", "valkey://localhost", "postgresql://localhost/x":
        assert isinstance(ffc.connect(url, **given), ffc.Backend)
        with pytest.raises(ffc.Validation, match="buffer_size"):
            ffc.connect(url, buffer_size=0)
        with pytest.raises(ffc.Validation, match="timeout"):
            ffc.connect(url, setup_timeout=0)


async def test_only_a_backend_with_a_log_is_resumable() -> None:
    """``isinstance`` tells."""
    assert isinstance(ffc.connect("memory://"), ffc.ResumableBackend)
    assert isinstance(ffc.connect("postgresql://localhost/x"), ffc.ResumableBackend)
    valkey = ffc.connect("valkey://localhost")
    assert not isinstance(valkey, ffc.ResumableCompletionBackend)
    with pytest.raises(ffc.Unavailable, match="keeps no log"):
        async with ffc.subscribe(valkey, cursor=ffc.StreamCursor.beginning()):
            pass
    with pytest.raises(ffc.Unavailable, match="keeps no log"):
        async with ffc.subscribe(valkey, cursor=ffc.StreamCursor.beginning(), results=True):
            pass


@pytest.mark.parametrize("partitions", [None, range(65_536)], ids=["whole", "shard"])
async def test_subscribe_hands_out_a_subscription_with_results(world: World, partitions: range | None) -> None:
    """On every backend, also where a stream is cut into partitions."""
    async with (
        world.backend() as backend,
        ffc.subscribe(backend, ffc.ScannerFilter("a"), partitions=partitions, results=True) as stream,
    ):
        assert isinstance(stream, ffc.Subscription)
        await world.announce(done(namespace="a", result=b"42"))
        completion = await anext(stream)
        assert completion.payload_bytes == b"42"
        assert stream.stats().delivered == 1
        assert stream.cursor == completion.cursor


class Plain(ffc.CompletionBackend):
    @override
    async def subscribe_completions(self, /) -> ffc.CompletionStream:
        return await MemoryBackend().subscribe_completions()


async def test_results_of_a_backend_that_knows_none_are_refused() -> None:
    """Rather than left out."""
    untyped: Any = ffc.subscribe
    with pytest.raises(ffc.Unavailable, match=r"Plain is no ffcompletion\.Backend"):
        await untyped(Plain(), results=True).__aenter__()
    with pytest.raises(TypeError, match="nonsense"):
        await untyped(Plain(), nonsense=True).__aenter__()


async def test_a_shard_counts_what_it_passed_over_as_filtered() -> None:
    """So that the sum adds up."""
    backend = MemoryBackend()
    async with ffc.subscribe(backend, partitions=[7]) as stream:
        backend.emit(ID.replace("7", "8", 1))
        backend.emit(ID)
        assert (await anext(stream)).execution_id == ID
        stats = stream.stats()
        assert (stats.delivered, stats.filtered) == (1, 1)
        assert isinstance(stream, ffc.Subscription)
        assert "1 partitions" in repr(stream)


async def test_checkpointed_hands_out_results(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where asked for."""
    store = ffc.FileCheckpoints(tmp_path_factory.mktemp("positions") / "p")
    backend = MemoryBackend()
    backend.emit(ID, payload_bytes=b"1")
    start = ffc.StreamCursor.beginning()
    async with ffc.checkpointed(backend, store, "p", start=start, results=True) as completions:
        assert (await anext(completions)).payload_bytes == b"1"


async def test_a_stream_in_memory_holds_no_more_than_it_may() -> None:
    """What is beyond it waits in the log, and counts as what the stream is behind by."""
    backend = ffc.connect("memory://", buffer_size=3)
    async with ffc.subscribe(backend) as stream:
        assert isinstance(stream, Subscription)
        for _ in range(12):
            backend.emit(ID)
        for behind in range(11, 2, -1):
            await anext(stream)
            assert len(stream._hand.batch) == 3
            stats = stream.stats()
            assert stats.delivered == 12 - behind
            assert (stats.buffered, stats.catching_up, stats.lag.completions) == (3, behind > 3, behind)
        for behind in range(2, -1, -1):
            await anext(stream)
            stats = stream.stats()
            assert (stats.buffered, stats.catching_up, stats.lag.completions) == (behind, False, behind)
        stats = stream.stats()
        assert (stats.delivered, stats.lost, stats.overflows) == (12, 0, 0)
