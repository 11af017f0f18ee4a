"""Questions about records and results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from glide import RequestError

import ffcompletion as ffc
from ffcompletion.backends.valkey.lookups import Lookups
from tests.adapters.valkey.asked import Asked, asking
from tests.worlds import Done, ValkeyWorld, done, hash_tag, some


@pytest.fixture
async def asked(valkey: ValkeyWorld) -> AsyncGenerator[Asked]:
    async with asking(valkey.url) as made:
        yield made


def of(*items: Done) -> list[ffc.CompletionPayload]:
    return [ffc.CompletionPayload(ffc.ExecutionId(item.execution_id), item.outcome) for item in items]


def record(item: Done, part: str) -> str:
    return f"ff:exec:{hash_tag(item.execution_id)}:{item.execution_id}:{part}"


@pytest.fixture
async def strange(valkey: ValkeyWorld) -> Sequence[Done]:
    """Without a namespace; without a record; one of another type; with a namespace that is no text."""
    bare, gone, odd, mute = (done() for _ in range(4))
    await valkey.write(bare)
    await valkey.command("SET", record(odd, "core"), "x")
    await valkey.write(mute)
    await valkey.command("HSET", record(mute, "core"), "namespace", b"\xff")
    return bare, gone, odd, mute


async def test_a_record_without_a_namespace_is_not_a_missing_one(
    valkey: ValkeyWorld, asked: Asked, strange: Sequence[Done]
) -> None:
    """Of the first a filter can be asked, of the second nothing can be told; nor of what is no record, or no text."""
    named = done(namespace="a")
    await valkey.write(named)
    found = await Lookups(asked.execute).facts(of(named, *strange), [ffc.ScannerFilter("a")])
    assert found == [("a", {}), (None, {}), None, None, None]


@pytest.mark.parametrize("other", [(), (ffc.ScannerFilter(None, ("l", "w")),)], ids=["one tag", "two tags"])
async def test_a_tag_that_cannot_be_read_is_not_a_missing_one(
    valkey: ValkeyWorld, asked: Asked, other: Sequence[ffc.ScannerFilter]
) -> None:
    """No text, or a hash that is none: undecided; not there at all: not the one that is wanted."""
    right, none, mute, odd = (done(namespace="a", tags=tags) for tags in ({"k": "v"}, {}, {"k": "v"}, {}))
    for item in (right, none, mute, odd):
        await valkey.write(item)
    await valkey.command("HSET", record(mute, "tags"), "k", b"\xff")
    await valkey.command("SET", record(odd, "tags"), "x")
    found = await Lookups(asked.execute).facts(of(right, none, mute, odd), [ffc.ScannerFilter("a", ("k", "v")), *other])
    tags = [[] if known is None else [(key, value) for key, value in known[1].items() if key == "k"] for known in found]
    assert tags == [[("k", "v")], [], [("k", None)], [("k", None)]]


async def test_tags_are_asked_of_those_that_a_tag_may_decide(valkey: ValkeyWorld, asked: Asked) -> None:
    """Whose namespace some filter with a tag lets in; and once of what is announced three times."""
    mine, other, third = (done(namespace=name, tags={"k": "v"}) for name in "abc")
    for item in (mine, other, third):
        await valkey.write(item)
    filters = [ffc.ScannerFilter("a", ("k", "v")), ffc.ScannerFilter("b")]
    found = await Lookups(asked.execute).facts(of(mine, other, third, mine, mine), filters)
    assert found == [("a", {"k": "v"}), ("b", {}), ("c", {}), ("a", {"k": "v"}), ("a", {"k": "v"})]
    assert [command[1] for command in asked.named("HGET") if command[2] == "k"] == [record(mine, "tags")]
    # Whoever names no namespace may be decided by the tag of any.
    await Lookups(asked.execute).facts(of(mine, other, third), [ffc.ScannerFilter(None, ("k", "v"))])
    assert sum(command[2] == "k" for command in asked.named("HGET")) == 3


async def test_a_result_comes_with_its_time(valkey: ValkeyWorld, asked: Asked) -> None:
    """The record's, and where that says none the announcement's; what is no string is no result."""
    rich, timeless, odd = (done(result=b"r") for _ in range(3))
    for item in (rich, timeless, odd):
        await valkey.write(item)
    await valkey.command("HSET", record(timeless, "core"), "completed_at", "soon")
    await valkey.command("DEL", record(odd, "result"))
    await valkey.command("SADD", record(odd, "result"), "x")
    payloads = [ffc.CompletionPayload(each.execution_id, each.outcome, None, 5) for each in of(rich, timeless, odd)]
    found = await Lookups(asked.execute).results(payloads)
    assert [(each.payload_bytes, each.produced_at_ms) for each in found] == [
        (b"r", 1_700_000_000_000), (b"r", 5), (None, 1_700_000_000_000),
    ]  # fmt: skip
    assert await Lookups(asked.execute).sizes([each.execution_id for each in payloads]) == [1, 1, 0]


@pytest.mark.parametrize(("missing", "large"), [("-strlen", True), ("-hget", False)])
async def test_a_missing_right(valkey: ValkeyWorld, missing: str, large: bool) -> None:
    """To sizes: then few results are asked for at once, as if they were large. To what filters ask: nothing is decided."""
    items = of(done(), done())
    await valkey.command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", "allkeys", "allcommands", missing)
    try:
        async with asking(valkey.url, "narrow") as asked:
            lookups = Lookups(asked.execute)
            sizes = await lookups.sizes([each.execution_id for each in items])
            assert [size > 0 for size in sizes] == [large] * 2
            if not large:
                with pytest.raises(RequestError, match="permissions"):
                    await lookups.facts(items, [ffc.ScannerFilter("a")])
    finally:
        await valkey.command("ACL", "DELUSER", "narrow")


async def test_each_field_is_asked_for_once(valkey: ValkeyWorld) -> None:
    """Twenty filtered streams cost the server no more than one."""
    async with valkey.backend() as backend:
        streams = [await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v"))) for _ in range(20)]
        await valkey.command("CONFIG", "RESETSTAT")
        items = [done(namespace="a", tags={"k": "v"}) for _ in range(10)]
        await valkey.announce(*items)
        for stream in streams:
            assert len(await some(stream, 10)) == 10
            await stream.aclose()
        info = await valkey.command("INFO", "commandstats")
        text = info.decode() if isinstance(info, bytes) else str(info)
        calls = {
            line.split(":")[0]: int(line.split("calls=")[1].split(",")[0])
            for line in text.splitlines()
            if "calls=" in line
        }
        # One field of the core record, one of the tags.
        assert calls["cmdstat_hget"] == 20
        assert "cmdstat_hmget" not in calls
