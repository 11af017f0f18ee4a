"""What holds for everything that can be generated: filters, ids, cursors, decoding; on real servers too."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.valkey.wire import decode
from ffcompletion.testing import Announcer, Execution
from ffcompletion.testing import strategies as ffst
from tests import TESTS
from tests.contract.test_conformance import PostgresAnnouncer, _ValkeyAnnouncer
from tests.decoders import everything
from tests.unit.contract.test_combining import VALUES, Raises, filters, said
from tests.worlds import PostgresWorld, ValkeyWorld, some

CORPUS = TESTS / "data" / "corpus"


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(ffst.executions())
def test_the_noop_filter_is_neutral(item: Execution) -> None:
    assert ffc.ScannerFilter.NOOP.is_noop()
    assert ffc.ScannerFilter.NOOP.matches(item.namespace, None)


def _admits(wanted: ffc.ScannerFilter, item: Execution) -> bool:
    return wanted.matches(item.namespace, None if wanted.tag_key is None else item.tags.get(wanted.tag_key))


@given(ffst.filters(), ffst.executions(), ffst.namespaces(), ffst.namespaces())
def test_adding_a_dimension_never_admits_more(
    wanted: ffc.ScannerFilter, item: Execution, namespace: str, value: str
) -> None:
    """And both together are the conjunction of the two."""
    if wanted.namespace is None:
        narrower = wanted.with_namespace(namespace)
        assert _admits(narrower, item) <= _admits(wanted, item)
        assert _admits(narrower, item) == (_admits(wanted, item) and _admits(ffc.ScannerFilter(namespace), item))
    if wanted.instance_tag is None:
        narrower = wanted.with_instance_tag("k", value)
        tag_alone = ffc.ScannerFilter.NOOP.with_instance_tag("k", value)
        assert _admits(narrower, item) <= _admits(wanted, item)
        assert _admits(narrower, item) == (_admits(wanted, item) and _admits(tag_alone, item))


class _Server:
    """A loop in a thread, because hypothesis runs plain functions."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.backend: Any = None
        self.announcer: Announcer
        self.world: Any = None
        self.kept: ffc.CompletionStream

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)


@pytest.fixture(scope="module", params=["memory", "valkey", "postgres18"])
def server(request: pytest.FixtureRequest) -> Iterator[_Server]:
    made = _Server()
    kind: str = request.param

    async def begin() -> None:
        if kind == "memory":
            made.backend = MemoryBackend()
            made.announcer = _Emits(made.backend)
            return
        url = request.getfixturevalue(f"{kind}_url")
        made.world = ValkeyWorld(url) if kind == "valkey" else PostgresWorld(18, url)
        await made.world.reset()
        made.announcer = _ValkeyAnnouncer(made.world) if kind == "valkey" else PostgresAnnouncer(made.world)
        made.backend = made.world.backend()
        # Kept open, so that examples do not each connect.
        made.kept = await made.backend.subscribe_completions()

    if kind != "memory":
        request.getfixturevalue(f"{kind}_url")
    made.do(begin())
    yield made
    made.do(made.backend.aclose())
    if made.world is not None:
        made.do(made.world.close())
    made.do(made.loop.shutdown_default_executor())
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join(10)
    made.loop.close()


class _Emits:
    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend

    async def announce(self, *executions: Execution) -> None:
        for item in executions:
            self.backend.emit(
                item.execution_id, item.outcome, flow_id=item.flow_id, namespace=item.namespace, tags=item.tags
            )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ffst.filters(), st.lists(ffst.executions(), max_size=8, unique_by=lambda item: item.execution_id))
@example(
    ffc.ScannerFilter("a"),
    [Execution(execution_id=ffc.ExecutionId("{fp:+007}:e3e70682-c209-4cac-629f-6fbed82c07cd"), namespace="a")],
)
def test_the_backend_decides_as_matches_does(
    server: _Server, wanted: ffc.ScannerFilter, items: list[Execution]
) -> None:
    """Exactly what the filter's own method admits is delivered, for any names and tags that can be stored."""
    marker = Execution(
        execution_id=ffc.ExecutionId("{fp:1}:ffffffff-ffff-ffff-ffff-ffffffffffff"),
        namespace=wanted.namespace,
        tags=dict([wanted.instance_tag] if wanted.instance_tag else []),
    )
    # As text they may differ and be one row on Postgres, whose core record is written once.
    fresh = {(item.execution_id.partition, item.execution_id.uuid): item for item in items}

    async def run() -> None:
        if server.world is not None:
            await server.world.reset()
        async with ffc.subscribe(server.backend, wanted) as stream:
            await server.announcer.announce(*fresh.values(), marker)
            expected = [item for item in fresh.values() if _admits(wanted, item)]
            got = await some(stream, len(expected) + 1)
            assert [(c.execution_id.partition, c.execution_id.uuid) for c in got] == [
                (item.execution_id.partition, item.execution_id.uuid) for item in (*expected, marker)
            ]

    server.do(run())


# None that is empty: what announces for these tests writes that as none.
NAMES = st.sampled_from([None, "a", "b"])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters(NAMES), st.lists(st.tuples(NAMES, VALUES), max_size=8))
@example(ffc.all_of(ffc.any_of(ffc.ScannerFilter("a"), Raises()), Raises()), [("a", "x"), ("b", None)])
def test_the_backend_decides_as_filters_made_of_filters_do(
    server: _Server, wanted: ffc.CompletionFilter, facts: list[tuple[str | None, str | None]]
) -> None:
    """What they say yes to is delivered, and what they cannot tell is not, somebody's predicate among them."""
    wanted = ffc.any_of(wanted, ffc.ScannerFilter("marker"))
    items = [
        Execution(execution_id=ffc.ExecutionId.new(), namespace=name, tags={} if value is None else {"k": value})
        for name, value in (*facts, ("marker", None))
    ]
    expected = {item.execution_id for item in items if said(wanted, item.namespace, item.tags.get("k")) is True}

    async def run() -> None:
        if server.world is not None:
            await server.world.reset()
        async with ffc.subscribe(server.backend, wanted) as stream:
            await server.announcer.announce(*items)
            assert {completion.execution_id for completion in await some(stream, len(expected))} == expected
            assert stream.stats().delivered == len(expected)

    server.do(run())


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(ffst.execution_ids(), ffst.flow_ids(), ffst.cursors())
def test_values_round_trip(execution_id: ffc.ExecutionId, flow_id: ffc.FlowId, cursor: ffc.StreamCursor) -> None:
    assert ffc.ExecutionId(str(execution_id)) == execution_id
    assert 0 <= execution_id.partition <= 0xFFFF
    assert ffc.FlowId(str(flow_id)).uuid == flow_id.uuid
    assert ffc.StreamCursor.from_bytes(cursor.to_bytes()) == cursor == ffc.StreamCursor.from_text(str(cursor))


@given(ffst.payloads())
def test_payloads_are_whole(payload: ffc.CompletionPayload) -> None:
    assert payload.kind in ffc.Outcome
    assert (payload.kind is ffc.Outcome.FAILED) == (payload.outcome in ("failed", "failure"))
    with pytest.raises(AttributeError):
        payload.outcome = "other"  # type: ignore[misc]  # the point


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(ffst.wire_messages())
def test_decoding_anything_is_total(raw: bytes) -> None:
    """A payload or None; what the engine could have written is a payload."""
    decode(raw)


@given(ffst.wire_messages(poison=False))
def test_decoding_what_is_sound(raw: bytes) -> None:
    payload = decode(raw)
    members = json.loads(raw)
    assert payload is not None
    assert (payload.execution_id, payload.flow_id) == (members["execution_id"], members["flow_id"])
    assert payload.outcome == members.get("outcome", "")


def test_the_fuzzer_s_corpus() -> None:
    """What ``python -m tests.fuzz`` and its predecessors have come upon so far, through every decoder there is."""
    found = [path.read_bytes() for path in CORPUS.iterdir()]
    assert len(found) >= 40
    for raw in found:
        everything(raw)


@given(
    ffst.wire_messages()
    | ffst.broken_bytes()
    | ffst.broken_json().map(str.encode)
    | st.builds(
        lambda kept, noise, at: kept[:at] + noise + kept[at:],
        st.sampled_from(sorted(path.read_bytes() for path in CORPUS.iterdir())),
        st.binary(max_size=8),
        st.integers(0, 60),
    )
)
def test_every_decoder_is_total_and_per_item(raw: bytes) -> None:
    everything(raw)
