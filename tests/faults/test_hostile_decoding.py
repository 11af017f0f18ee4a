"""Decoding is total, and per item: whatever a record holds, it alone is skipped or undecided, on real servers too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.backends.postgres.rows import tags_of
from ffcompletion.backends.valkey import snapshots
from ffcompletion.backends.valkey.lookups import Lookups
from ffcompletion.backends.valkey.replies import milliseconds, partition_count, text_of, texts, texts_by_name
from ffcompletion.foreign.filters import checked_filter
from tests import TESTS
from tests.faults.test_hostile_foreign import Own
from tests.worlds import Done, PostgresWorld, ValkeyWorld, done, eventually, some

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
CORPUS = TESTS / "data" / "corpus"
HOSTILE = [
    b"",
    b"9" * 5000,
    b"-1",
    b"\xff\xfe",
    b"\x00",
    "\u0667".encode(),
    b"nan",
    b"1e999",
    b"[" * 5000,
    b'{"a":' * 1000,
]

words = st.sampled_from(HOSTILE) | st.binary(max_size=30)
replies = st.recursive(
    st.none() | st.integers() | st.floats() | st.booleans() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(words, inner, max_size=4) | st.sets(words, max_size=4),
    max_leaves=12,
)


def _asked(answer: Any) -> Any:
    """An exchange with a server that answers the same to every command."""

    async def execute(commands: Sequence[Sequence[str]]) -> Sequence[object]:
        return [answer] * len(commands)

    return execute


@given(replies, st.integers(0, 7))
@example([b"9" * 5000] * 6, 6)
def test_replies_of_valkey_are_read_without_raising(reply: Any, count: int) -> None:
    text = text_of(reply)
    assert text is None or text.encode() == reply
    assert 0 <= milliseconds(text) < 1 << 63
    assert 1 <= partition_count(reply) <= 65_535
    found = texts(reply, count)
    assert found is None or len(found) == count
    assert {type(item) for pair in texts_by_name(reply).items() for item in pair} <= {str}


@settings(max_examples=40)
@given(replies)
@example([b"a", b"", b"default", b"terminal", b"success", b"9" * 5000])
def test_records_on_valkey_are_read_without_raising(reply: Any) -> None:
    """Described, looked up for filters and results, found in the index: an answer for each, whatever is stored."""

    async def run() -> None:
        (described,) = await snapshots.describe(_asked(reply), [ID], result=True)
        assert described is None or described.execution_id == ID
        await snapshots.members(_asked(reply), ffc.FlowId("550e8400-e29b-41d4-a716-446655440000"))
        payloads = [ffc.CompletionPayload(ID, "success")] * 3
        wanted = checked_filter(Own(key=lambda: "k"))
        assert wanted is not None
        lookups = Lookups(_asked(reply))
        assert len(await lookups.facts(payloads, [wanted, ffc.ScannerFilter("a", ("l", "v"))])) == 3
        assert len(await lookups.results(payloads)) == 3

    asyncio.run(run())


@given(st.text(max_size=60) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)).map(json.dumps))  # fmt: skip
@example("[" * 100_000)
@example('{"a":' * 5_000)
@example('{"a":' + "9" * 5_000 + "}")
@example('{"k": "\\ud800"}')
def test_tags_on_postgres_are_read_without_raising(text: str) -> None:
    found = tags_of(text)
    assert found is None or {type(item) for pair in found.items() for item in pair} <= {str}


@given(
    st.binary(max_size=40) | st.sampled_from(sorted(item.read_bytes() for item in CORPUS.iterdir())),
    st.text(max_size=40),
)
@example(b"\x02" + b"\xff" * 8, "9" * 5_000)
def test_cursors_are_read_or_refused(data: bytes, text: str) -> None:
    for read in (
        lambda: ffc.StreamCursor.from_bytes(data).to_bytes(),
        lambda: ffc.StreamCursor.from_text(text).to_text(),
    ):
        try:
            read()
        except ffc.Validation:
            pass


@settings(max_examples=40)
@given(data=st.binary(max_size=200) | replies.map(lambda reply: repr(reply).encode()))
def test_checkpoint_files_are_read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "checkpoint"
    path.write_bytes(data)
    with pytest.raises(ffc.Validation):
        asyncio.run(ffc.FileCheckpoints(path).load("a"))
    assert path.read_bytes() == data


# ── on real servers ──────────────────────────────────────────────────────────────────────────────────────────────────

DEEP = '{"k": ' + "[" * 900 + "]" * 900 + "}"


def _hundred() -> list[Done]:
    return [done(namespace="victim", tags={"k": "v"}, result=b"r") for _ in range(100)]


async def _beside(stream: Any, plain: Any, sound: list[Done], poison: Done) -> None:
    came = [item.execution_id for item in await some(stream, len(sound), 30)]
    assert sorted(came) == sorted(item.execution_id for item in sound)
    everything = {item.execution_id for item in await some(plain, len(sound) + 1, 30)}
    assert everything == {item.execution_id for item in (*sound, poison)}


@pytest.mark.parametrize("fields", [DEEP, "[]", "7", '{"k": {"v": 1}}', '{"k": null}'], ids=range(5))
async def test_one_broken_record_in_a_hundred_on_postgres(postgres: PostgresWorld, fields: str) -> None:
    """In the same transaction; live and catching up, with results; strangers' questions are answered."""
    async with postgres.backend() as backend:
        async with ffc.subscribe(backend, ffc.ScannerFilter("victim", ("k", "v")), results=True) as stream:
            async with ffc.subscribe(backend) as plain:
                items = _hundred()
                poison = items[37]
                await postgres.begins(poison)
                await postgres.sql(
                    "UPDATE ff_exec_core SET raw_fields = jsonb_set(raw_fields, '{tags}', %s::jsonb)", (fields,)
                )
                await postgres.announce(*items)
                sound = [item for item in items if item is not poison]
                await _beside(stream, plain, sound, poison)
                for id_ in (sound[0].execution_id, poison.execution_id):
                    await backend.describe_execution(id_)
                assert (await ffc.wait_for_completion(backend, sound[0].execution_id, timeout=30)).outcome == "success"
                beginning = ffc.StreamCursor.beginning()
                async with ffc.subscribe(backend, ffc.ScannerFilter("victim", ("k", "v")), cursor=beginning) as again:
                    async with ffc.subscribe(backend, cursor=beginning) as all_again:
                        await _beside(again, all_again, sound, poison)
                assert backend.stats().reconnects == 0


POISON: list[list[str | bytes]] = [
    ["HSET", "core", "completed_at", b"9" * 5000],
    ["HSET", "core", "namespace", b"\xff\xfe"],
    ["DEL", "core"],
    ["SET", "core", "x"],
    ["SET", "tags", "x"],
    ["HSET", "tags", "k", b"\xff"],
    ["LPUSH", "result", "x"],
]


@pytest.mark.parametrize("broken", POISON, ids=lambda p: " ".join(map(str, p))[:24])
async def test_one_broken_record_in_a_hundred_on_valkey(valkey: ValkeyWorld, broken: list[str | bytes]) -> None:
    """Beside it a results stream, a filter that negates, and strangers' questions: nobody waits, and it fails closed."""
    items = _hundred()
    poison = items[37]
    async with valkey.backend(reconcile_interval=0.5) as backend:
        async with (
            ffc.subscribe(backend, ffc.ScannerFilter("victim", ("k", "v")), results=True) as stream,
            ffc.subscribe(
                backend, Own(lambda namespace, tag: namespace != "victim" and tag != "v", key=lambda: "k")
            ) as negating,
        ):
            for item in items:
                await valkey.write(item)
            number = poison.execution_id[4 : poison.execution_id.index("}")]
            name = f"ff:exec:{{fp:{number}}}:{poison.execution_id}:{broken[1]!s}"
            if broken[0] != "HSET":
                await valkey.command("DEL", name)
            await valkey.command(broken[0], name, *broken[2:])
            for item in items:
                await valkey.publish(item)
            await valkey.command("ZADD", "ff:idx:{fp:1}:lane:default:terminal", "+inf", items[1].execution_id)
            sound = {item.execution_id for item in items if item is not poison}
            came: set[str] = set()
            while not sound <= came:
                came |= {item.execution_id for item in await some(stream, 1, 30)}
            assert came <= {item.execution_id for item in items}
            for id_ in (items[0].execution_id, poison.execution_id):
                await backend.describe_execution(id_)
            await eventually(lambda: negating.stats().filtered + negating.stats().undecided >= 100, 30)
            assert negating.stats().delivered + negating.stats().buffered == 0
            assert (await ffc.wait_for_completion(backend, items[0].execution_id, timeout=30)).outcome == "success"
            assert backend.stats().state is ffc.BackendState.LIVE
