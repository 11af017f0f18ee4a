"""Delivered equals asked: live, stored, found and described are one answer, whatever row and record hold.

What each filter is to get is worked out here from what was written, by the rules of the contract and nothing of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

import ffcompletion as ffc
from ffcompletion.testing import Execution
from ffcompletion.testing import strategies as ffst
from tests.contract.test_properties import _Server, server  # noqa: F401  # the fixture
from tests.worlds import FLOW, Done, PostgresWorld, ValkeyWorld, done, eventually, insert, some

# What is generated may be long, and Hypothesis keeps a text of it.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
NAMES = ("a", "b", "ä ", "")
few = st.sampled_from(NAMES)
FILTERS: tuple[ffc.ScannerFilter | None, ...] = (
    None,
    ffc.ScannerFilter("a"),
    ffc.ScannerFilter("a", ("k", "v")),
    ffc.ScannerFilter(None, ("k", "v")),
    ffc.ScannerFilter("ä ", ("ö=", "1")),
)
EXAMPLES = settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ABSENT = "absent"


def _id(number: int) -> str:
    return f"{{fp:{number % 256}}}:{uuid.uuid4()}"


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stored(msgspec.Struct, frozen=True):
    """A row and a record, in JSON; either may be missing."""

    row: bool
    own: str | None
    record: bool
    namespace: str
    """JSON, or absent."""
    tags: str
    """JSON, or absent."""
    result: bytes | None

    @property
    def fields(self) -> str:
        parts = [f'"{name}": {text}' for name, text in self._members() if text != ABSENT]
        return "{" + ", ".join(parts) + "}"

    def _members(self) -> list[tuple[str, str]]:
        return [("namespace", self.namespace), ("tags", self.tags)]


texts = few.map(json.dumps)
documents = st.one_of(st.just(ABSENT), texts, ffst.broken_json())
# Longer ones are not read, which test_hostile_sizes holds.
named = documents.filter(lambda text: len(text.encode()) <= 4_000)
tag_values = st.sampled_from(("v", "1", "w")).map(json.dumps) | ffst.broken_json()
tag_objects = st.dictionaries(st.sampled_from(("k", "ö=", "other")), tag_values, max_size=3).map(
    lambda found: "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in found.items()) + "}"
)
stored = st.builds(
    Stored,
    row=st.sampled_from((True, True, True, False)),
    own=st.none() | few,
    record=st.sampled_from((True, True, True, False)),
    namespace=texts | named,
    tags=tag_objects | documents,
    result=st.none() | st.binary(max_size=4),
)


class Seen(msgspec.Struct, frozen=True):
    """As the server itself says it: PostgreSQL renders JSON, not we."""

    namespace: str | None
    tags: dict[str, str | None]
    """By key, as ``->>`` has it."""
    deep: bool
    """Its tags are nested too deep, or too long, to be read."""


def _disputed(item: Stored, seen: Seen) -> bool:
    return item.row and item.record and None not in (item.own, seen.namespace) and item.own != seen.namespace


def _completions(item: Stored, seen: Seen) -> list[Stored]:
    """The row's; and the record's own, where no row tells of it, because another tenant's does not."""
    silent = item.record and (not item.row or _disputed(item, seen))
    return [item] * item.row + [msgspec.structs.replace(item, row=False)] * silent


def _expected(item: Stored, seen: Seen, wanted: ffc.ScannerFilter | None, *, results: bool) -> bool:
    if wanted is None:
        return item.row or item.record
    own = item.own if item.row else None
    if not item.record:
        return own is not None and wanted.instance_tag is None and wanted.namespace in (None, own)
    disputed = _disputed(item, seen)
    namespace = seen.namespace if own is None else own
    if wanted.namespace not in (None, namespace):
        return False
    if wanted.instance_tag is None:
        return not (disputed and results)
    return not disputed and not seen.deep and seen.tags.get(wanted.instance_tag[0]) == wanted.instance_tag[1]


async def _store(conn: AsyncConnection[Any], id_: str, item: Stored) -> None:
    partition, _, bare = id_[4:].partition("}:")
    if item.record:
        await conn.execute(
            "INSERT INTO ff_exec_core (partition_key, execution_id, flow_id, lane_id, lifecycle_phase, terminal_at_ms,"
            f" result, raw_fields) VALUES (%s, %s, %s, 'default', 'terminal', {NOW}, %s, %s)".encode(),
            (partition, bare, FLOW, item.result, item.fields),
        )
    if item.row:
        await conn.execute(
            "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)"
            f" VALUES (%s, %s, %s, 'success', %s, {NOW})".encode(),
            (partition, bare, FLOW, item.own),
        )


async def _seen(world: PostgresWorld, id_: str) -> Seen:
    partition, _, bare = id_[4:].partition("}:")
    rows = await world.sql(
        "SELECT raw_fields->>'namespace', (raw_fields->'tags')->>'k', (raw_fields->'tags')->>'ö=',"
        " (raw_fields->'tags')::text FROM ff_exec_core WHERE partition_key = %s AND execution_id = %s",
        (partition, bare),
    )
    if not rows:
        return Seen(None, {}, False)
    namespace, one, other, text = rows[0]
    text = text or ""
    return Seen(namespace, {"k": one, "ö=": other}, _depth(text) > 500 or len(text.encode()) > 16_384)


def _depth(text: str) -> int:
    depth = most = 0
    for sign in re.sub(r'"(\\.|[^"\\])*"', "", text):
        depth += (sign in "[{") - (sign in "]}")
        most = max(most, depth)
    return most


async def _drain(stream: Any, count: int | None) -> list[ffc.CompletionPayload]:
    """All of it: so many have been decided, or (None) all that is stored."""

    def decided() -> bool:
        stats = stream.stats()
        if count is None:
            return not stats.catching_up
        return bool(stats.delivered + stats.buffered + stats.filtered + stats.undecided >= count)

    came: list[ffc.CompletionPayload] = []
    async with asyncio.timeout(30):
        while not decided() or stream.stats().buffered:
            with contextlib.suppress(TimeoutError):
                came.append(await asyncio.wait_for(anext(stream), 0.05))
    return came


@EXAMPLES
@given(items=st.lists(stored, min_size=1, max_size=12))
def test_one_answer_on_postgres(server: _Server, items: list[Stored]) -> None:  # noqa: F811  # the fixture
    if isinstance(server.world, PostgresWorld):
        server.do(_on_postgres(server.world, items))


async def _on_postgres(world: PostgresWorld, items: Sequence[Stored]) -> None:
    await world.reset()
    ids = [_id(number) for number in range(len(items))]
    there = [(id_, item) for id_, item in zip(ids, items, strict=True) if item.row or item.record]
    asked = [
        (FILTERS[at], results) for at, results in ((0, True), (1, False), (1, True), (2, False), (3, True), (4, False))
    ]
    async with world.backend(reconcile_interval=0.1) as backend:
        assert isinstance(backend, ffc.ResumableCompletionBackend)
        live = [await backend.subscribe_completions_filtered(w or ffc.ScannerFilter.NOOP, results=r) for w, r in asked]
        conn = await world.connect(autocommit=False)
        for id_, item in zip(ids, items, strict=True):
            await _store(conn, id_, item)
        await conn.commit()
        seen = {id_: await _seen(world, id_) for id_ in ids}
        for (wanted, results), stream in zip(asked, live, strict=True):
            ends = [(id_, part) for id_, item in there for part in _completions(item, seen[id_])]
            expected = [id_ for id_, part in ends if _expected(part, seen[id_], wanted, results=results)]
            came = await _drain(stream, len(ends))
            # A row and a silent end of one id and time are one completion to a stream that is for both.
            assert {payload.execution_id for payload in came} == set(expected), wanted
            assert len(came) <= len(expected)
            await _same_results(came, dict(there), results)
            # Each alone, so that no other stream's questions can help it.
            await stream.aclose()
    rows = [(id_, item) for id_, item in there if item.row]
    opened: Any = world.backend(reconcile_interval=0)
    async with opened as resumable:
        # So that connections stay between the streams, of which each is alone with its question.
        kept = await resumable.subscribe_completions()
        for wanted, results in asked:
            again = await resumable.subscribe_completions_from(
                ffc.StreamCursor.outbox(0), wanted or ffc.ScannerFilter.NOOP, results=results
            )
            expected = [id_ for id_, item in rows if _expected(item, seen[id_], wanted, results=results)]
            came = await _drain(again, None)
            assert sorted(payload.execution_id for payload in came) == sorted(expected), wanted
            await _same_results(came, dict(there), results)
            await again.aclose()
        await kept.aclose()
        for id_, item in zip(ids, items, strict=True):
            await _described(resumable, id_, item, seen[id_])


async def _same_results(came: Sequence[ffc.CompletionPayload], there: dict[str, Stored], results: bool) -> None:
    for payload in came:
        item = there[payload.execution_id]
        assert payload.payload_bytes == (item.result if results and item.record else None)


async def _described(backend: Any, id_: str, item: Stored, seen: Seen) -> None:
    found = await backend.describe_execution(id_, result=True)
    if not (item.row or item.record):
        assert found is None
        return
    disputed = _disputed(item, seen)
    own = item.own if item.row else None
    assert found.namespace == (seen.namespace if item.record and seen.namespace is not None else own)
    for wanted in FILTERS:
        if wanted is not None and not disputed and (item.record or wanted.instance_tag is None):
            key = wanted.tag_key
            admits = wanted.matches(found.namespace, None if key is None else found.tags.get(key))
            assert admits == _expected(item, seen, wanted, results=False), wanted
    # Another tenant's row is no end of this execution.
    assert found.terminal_outcome == ("success" if item.row and not disputed else "failed")
    assert found.result == (item.result if item.record else None)
    waited = await ffc.wait_for_completion(backend, id_, timeout=10, result=True)
    assert (waited.outcome, waited.payload_bytes) == (found.terminal_outcome, found.result)


# ── Valkey ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Kept(msgspec.Struct, frozen=True):
    """An execution's keys, as bytes; None is a key of another type."""

    core: bool | None
    """False: there is none."""
    namespace: bytes | None
    """None: no such field."""
    tags: dict[str, bytes] | None
    result: bytes | None
    push: bool


spelt = few.map(str.encode) | ffst.broken_bytes()
kept = st.builds(
    Kept,
    core=st.sampled_from((True, True, True, True, False, None)),
    namespace=st.none() | few.map(str.encode) | spelt,
    tags=st.none() | st.dictionaries(st.sampled_from(("k", "ö=")), st.sampled_from((b"v", b"1")) | spelt, max_size=2),
    result=st.none() | st.binary(max_size=4),
    push=st.booleans(),
)


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _decidable(item: Kept) -> bool:
    return item.core is True and (item.namespace is None or _text(item.namespace) is not None)


def _wanted(item: Kept, wanted: ffc.ScannerFilter | None) -> bool:
    if wanted is None:
        return item.push or item.core is True
    if not _decidable(item) or wanted.namespace not in (None, _text(item.namespace)):
        return False
    if wanted.instance_tag is None:
        return True
    return item.tags is not None and _text(item.tags.get(wanted.instance_tag[0])) == wanted.instance_tag[1]


async def _keep(world: ValkeyWorld, id_: str, item: Kept) -> None:
    tag = id_[: id_.index("}") + 1]
    key = f"ff:exec:{tag}:{id_}"
    now = await world.command("TIME")
    assert isinstance(now, list)
    at = str(int(now[0]) * 1000 + int(now[1]) // 1000)
    if item.core:
        await world.command(
            "HSET", f"{key}:core", "flow_id", FLOW, "lane_id", "default", "lifecycle_phase", "terminal",
            "terminal_outcome", "success", "completed_at", at, "replay_count", "0",
        )  # fmt: skip
        if item.namespace is not None:
            await world.command("HSET", f"{key}:core", "namespace", item.namespace)
    elif item.core is None:
        await world.command("SET", f"{key}:core", "x")
    if item.tags is None:
        await world.command("SET", f"{key}:tags", "x")
    for name, value in (item.tags or {}).items():
        await world.command("HSET", f"{key}:tags", name, value)
    if item.result is not None:
        await world.command("SET", f"{key}:result", item.result)
    await world.command("ZADD", f"ff:idx:{tag}:lane:default:terminal", at, id_)
    if item.push:
        await world.publish(Done(execution_id=id_))


@EXAMPLES
@given(items=st.lists(kept, min_size=1, max_size=12))
def test_one_answer_on_valkey(server: _Server, items: list[Kept]) -> None:  # noqa: F811  # the fixture
    if isinstance(server.world, ValkeyWorld):
        server.do(_on_valkey(server.world, items))


async def _on_valkey(world: ValkeyWorld, items: Sequence[Kept]) -> None:
    await world.reset()
    ids = [_id(number) for number in range(len(items))]
    last = [done(namespace=w.namespace if w else None, tags=dict([w.instance_tag] if w and w.instance_tag else []))
            for w in FILTERS]  # fmt: skip
    async with world.backend(reconcile_interval=0.1) as backend:
        asked = [(wanted, results) for wanted in FILTERS for results in (False, True)]
        live = [await backend.subscribe_completions_filtered(w or ffc.ScannerFilter.NOOP, results=r) for w, r in asked]
        for id_, item in zip(ids, items, strict=True):
            await _keep(world, id_, item)
        for marker in last:
            # One that is found and nobody tells of: all that was written before has been found by then.
            await world.finish(marker, push=False)
        for (wanted, results), stream in zip(asked, live, strict=True):
            expected = {id_ for id_, item in zip(ids, items, strict=True) if _wanted(item, wanted)}
            came: dict[str, ffc.CompletionPayload] = {}
            own = last[FILTERS.index(wanted)].execution_id

            async def whole(
                came: dict[str, Any] = came, stream: Any = stream, end: set[str] = expected | {own}
            ) -> None:
                while not end <= came.keys():
                    payload = await anext(stream)
                    came[payload.execution_id] = payload

            await asyncio.wait_for(whole(), 20)
            markers = {marker.execution_id for marker in last}
            assert came.keys() - markers == expected, wanted
            by_id = dict(zip(ids, items, strict=True))
            for id_ in expected:
                assert came[id_].payload_bytes == (by_id[id_].result if results else None)
        for id_, item in zip(ids, items, strict=True):
            found = await backend.describe_execution(id_, result=True)
            assert (found is None) == (item.core is not True)
            if found is None:
                continue
            assert found.result == item.result
            waited = await ffc.wait_for_completion(backend, id_, timeout=10, result=True)
            assert (waited.outcome, waited.payload_bytes) == ("success", item.result)
            for wanted in FILTERS:
                if wanted is not None and _decidable(item):
                    key = wanted.tag_key
                    admits = wanted.matches(found.namespace, None if key is None else found.tags.get(key))
                    assert admits == _wanted(item, wanted), wanted
        for stream in live:
            await stream.aclose()
    await eventually(lambda: backend.stats().streams == 0)


# ── one record in a hundred, on every backend ────────────────────────────────────────────────────────────────────────


VICTIM = ffc.ScannerFilter("victim")
TAGGED = ffc.ScannerFilter("victim", ("k", "v"))


@EXAMPLES
@given(at=st.integers(0, 99), strange=ffst.outrageous_executions(), row=stored, keys=kept)
def test_one_poisoned_record_in_a_hundred(
    server: _Server,  # noqa: F811  # the fixture
    at: int,
    strange: Execution,
    row: Stored,
    keys: Kept,
) -> None:
    """Beside it everybody gets exactly its own, in order, live and stored; on servers in the same transaction."""
    server.do(_beside(server, at, strange, row, keys))


async def _beside(made: _Server, at: int, strange: Execution, row: Stored, keys: Kept) -> None:
    world, backend = made.world, made.backend
    if world is not None:
        await world.reset()
    items = [done(namespace="victim", tags={"k": "v"}, result=b"r%d" % number) for number in range(99)]
    poisoned = _id(at)
    beginning: Any = None
    async with (
        ffc.subscribe(backend) as plain,
        ffc.subscribe(backend, VICTIM) as own,
        ffc.subscribe(backend, TAGGED, results=world is not None) as tagged,
        ffc.subscribe(backend, ffc.ScannerFilter("b", ("k", "v"))) as other,
    ):
        beginning = plain.cursor if isinstance(backend, ffc.ResumableCompletionBackend) else None
        if isinstance(world, PostgresWorld):
            async with (await world.connect()).transaction() as transaction:
                for item in items[:at]:
                    await insert(transaction.connection, item)
                await _store(transaction.connection, poisoned, row)
                for item in items[at:]:
                    await insert(transaction.connection, item)
        elif isinstance(world, ValkeyWorld):
            for item in items:
                await world.write(item)
            await _keep(world, poisoned, msgspec.structs.replace(keys, push=False))
            for number, item in enumerate(items):
                if number == at:
                    await world.publish(Done(execution_id=poisoned))
                await world.publish(item)
        else:
            await made.announcer.announce(*map(_execution, items[:at]), strange, *map(_execution, items[at:]))
        wanted = [item.execution_id for item in items]
        streams = [own, tagged]
        if beginning is not None:
            streams += [
                await backend.subscribe_completions_from(beginning, VICTIM),
                await backend.subscribe_completions_from(beginning, TAGGED, results=world is not None),
            ]
        for stream in streams:
            came = await some(stream, 99)
            assert [payload.execution_id for payload in came] == wanted
            if stream in (tagged, streams[-1]) and world is not None:
                assert [payload.payload_bytes for payload in came] == [item.result for item in items]
        everything: list[str] = []
        while not everything or everything[-1] != wanted[-1]:
            everything += [payload.execution_id for payload in await some(plain, 1)]
        assert [id_ for id_ in everything if id_ in set(wanted)] == wanted
        assert set(everything) - set(wanted) <= {poisoned, strange.execution_id}
        if world is not None:
            # At the most the one, whosever it turned out to be.
            assert other.stats().delivered + other.stats().buffered <= 1
        assert backend.stats().reconnects == 0
        for stream in streams[2:]:
            await stream.aclose()


def _execution(item: Done) -> Execution:
    return Execution(
        execution_id=ffc.ExecutionId(item.execution_id), namespace=item.namespace, tags=item.tags, result=item.result
    )
