"""Stored state, as Valkey keeps it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey.snapshots import describe, members
from tests.adapters.valkey.asked import Asked, asking
from tests.worlds import FLOW, Done, ValkeyWorld, done, hash_tag


@pytest.fixture
async def asked(valkey: ValkeyWorld) -> AsyncGenerator[Asked]:
    async with asking(valkey.url) as made:
        yield made


def record(item: Done, part: str) -> str:
    return f"ff:exec:{hash_tag(item.execution_id)}:{item.execution_id}:{part}"


async def described(asked: Asked, *items: Done) -> list[ffc.ExecutionSnapshot | None]:
    return await describe(asked.execute, [ffc.ExecutionId(item.execution_id) for item in items], result=True)


async def test_valkey_an_execution_that_runs_again(valkey: ValkeyWorld) -> None:
    """Replayed: no outcome, no time, and not the result of the run before."""
    item = done(result=b"old", flow_id=None)
    await valkey.finish(item, push=False)
    await valkey.replay(item)
    async with valkey.backend() as backend:
        found = await backend.describe_execution(item.execution_id, result=True)
        assert found is not None
        assert (found.phase, found.terminal_outcome, found.completed_at_ms) == ("runnable", None, 0)
        assert found.result is None
        assert found.flow_id is None
        assert not found.is_terminal


@pytest.mark.parametrize("outcome", ["none", ""])
async def test_a_terminal_record_without_an_outcome_has_not_finished(
    valkey: ValkeyWorld, asked: Asked, outcome: str
) -> None:
    item = done(outcome=outcome, result=b"r")
    await valkey.write(item)
    (found,) = await described(asked, item)
    assert found is not None
    assert (found.terminal_outcome, found.completed_at_ms, found.result, found.is_terminal) == (None, 0, None, False)


async def test_more_tags_than_anybody_has_are_not_told(valkey: ValkeyWorld, asked: Asked) -> None:
    """By number, and by what they come to, also where one is large and the others small; they are not asked for."""
    many = {str(number): "v" for number in range(256)}
    items = [done(namespace="a", tags=tags) for tags in (many, many, dict.fromkeys(list(many)[1:], "v"), {})]
    for item in items:
        await valkey.write(item)
    await valkey.command("HSET", record(items[1], "tags"), "one", "more")
    await valkey.command("HSET", record(items[2], "tags"), "l", "x" * (129 << 10))
    found = await described(asked, *items)
    assert [each and each.namespace for each in found] == ["a"] * 4
    assert [dict(each.tags) for each in found if each] == [many, {}, {}, {}]
    assert [command[1] for command in asked.named("HGETALL")] == [record(items[0], "tags")]


async def test_what_is_stored_in_its_place_is_none_of_it(valkey: ValkeyWorld, asked: Asked) -> None:
    """A record of another type, or without a phase, is no execution; tags and results of another type are none."""
    odd, phaseless, whole = done(), done(), done(tags={"k": "v"}, result=b"r")
    await valkey.command("SET", record(odd, "core"), "x")
    await valkey.command("HSET", record(phaseless, "core"), "namespace", "a")
    await valkey.write(whole)
    for part in ("tags", "result"):
        await valkey.command("DEL", record(whole, part))
        await valkey.command("SADD", record(whole, part), "x")
    *none, found = await described(asked, odd, phaseless, whole)
    assert none == [None, None]
    assert found is not None
    assert (found.terminal_outcome, dict(found.tags), found.result) == ("success", {}, None)


async def test_a_flow_s_members_lie_where_its_partition_is(valkey: ValkeyWorld, asked: Asked) -> None:
    """Of as many as the engine runs; what is no id is no member, and a key of another type has none."""
    await valkey.command("HSET", "ff:config:partitions", "num_flow_partitions", "1")
    ids = [done().execution_id for _ in range(3)]
    flow, key = ffc.FlowId(FLOW), f"ff:flow:{{fp:0}}:{FLOW}:members"
    await valkey.command("SADD", key, *ids, "nonsense", b"\xff")
    assert sorted(await members(asked.execute, flow)) == sorted(ids)
    await valkey.command("SET", key, "x")
    assert await members(asked.execute, flow) == []
