"""Our own producers on Valkey: all or nothing, announced at once, kept for a while and no longer, by a low-rights user."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import keys
from ffcompletion.contract.ids import flow_partition
from ffcompletion.producers import completion_call, submission_call
from tests import ROOT
from tests.adapters.produced import all_keys
from tests.worlds import ValkeyWorld

DOCS = ROOT / "docs"
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"


async def test_announced_at_once_with_a_flow_or_without(producing: ValkeyWorld) -> None:
    """No reconciling needed; the nil UUID of the message reads as no flow."""
    async with producing.backend(reconcile_interval=3600) as backend, ffc.subscribe(backend) as stream:
        for flow in (None, FLOW):
            id_ = ffc.ExecutionId.new(flow)
            assert await producing.command(*completion_call(id_, "success", flow_id=flow)) == 1
            told = await asyncio.wait_for(anext(stream), 20)
            assert (told.execution_id, told.flow_id, told.outcome) == (id_, flow, "success")
            assert await producing.command(*completion_call(id_, "failed", flow_id=flow)) == 0


async def test_what_was_submitted_is_known_and_waited_for(producing: ValkeyWorld) -> None:
    """As on Postgres: what was said when submitting holds; a flow's members are known; it may run again."""
    async with producing.backend(reconcile_interval=3600) as backend:
        id_ = ffc.ExecutionId.new(FLOW)
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_completion(backend, id_, timeout=5)
        assert await producing.command(*submission_call(id_, flow_id=FLOW, namespace="tenant-a", tags={"k": "v"})) == 1
        assert await producing.command(*submission_call(id_)) == 0
        found = await backend.describe_execution(id_)
        assert found is not None
        assert (found.is_terminal, found.namespace, found.flow_id, found.tags) == (False, "tenant-a", FLOW, {"k": "v"})
        assert await backend.flow_members(FLOW) == [id_]
        wanted = ffc.ScannerFilter("tenant-a").with_instance_tag("k", "v")
        async with ffc.subscribe(backend, wanted) as stream:
            waiting = asyncio.create_task(ffc.wait_for_completion(backend, id_, timeout=20, result=True))
            await asyncio.sleep(0)
            assert await producing.command(*completion_call(id_, "failed", result=b"why\xff")) == 1
            done = await waiting
            assert (done.outcome, done.payload_bytes) == ("failed", b"why\xff")
            assert (await asyncio.wait_for(anext(stream), 20)).flow_id == FLOW
        assert await producing.command(*submission_call(id_)) == 1
        found = await backend.describe_execution(id_, result=True)
        assert found is not None
        assert (found.is_terminal, found.terminal_outcome, found.result, found.tags) == (False, None, None, {"k": "v"})
        assert await producing.command(*completion_call(id_, "success")) == 1
        assert (await ffc.wait_for_completion(backend, id_, timeout=20)).outcome == "success"
        assert await producing.command("FCALL", "ffcompletion_replay", "1", keys.core(id_), id_) == 1
        assert await producing.command("FCALL", "ffcompletion_replay", "1", keys.core(id_), id_) == 0


async def test_what_has_no_namespace_is_nobody_s(producing: ValkeyWorld) -> None:
    """As on Postgres: a predicate that negates one is not asked for it, and lets nobody's in."""
    nobody_s, another_s = ffc.ExecutionId.new(), ffc.ExecutionId.new()
    async with producing.backend() as backend:
        not_a = ffc.matching(lambda namespace, _: namespace != "a")
        async with ffc.subscribe(backend, not_a) as stream, ffc.subscribe(backend, ffc.ScannerFilter("")) as empty:
            await producing.command(*submission_call(nobody_s))
            await producing.command(*completion_call(nobody_s, "success"))
            await producing.command(*completion_call(another_s, "success", namespace="b"))
            assert (await asyncio.wait_for(anext(stream), 20)).execution_id == another_s
            assert stream.stats().delivered == 1
            assert empty.stats().delivered == empty.stats().buffered == 0
        for execution_id, namespace in (nobody_s, None), (another_s, "b"):
            found = await backend.describe_execution(execution_id)
            assert found is not None
            assert found.namespace == namespace


def test_the_calls_spell_the_readers_keys() -> None:
    """One spelling of every key, in the call and in the reader."""
    id_ = ffc.ExecutionId.new(FLOW)
    words = completion_call(id_, "success", flow_id=FLOW, lane="mail")
    at = flow_partition(ffc.FlowId(FLOW), 256)
    assert words[2:9] == [
        "6", keys.core(id_), keys.tags(id_), keys.result(id_), keys.terminal(at, "mail"),
        f"ff:idx:{{fp:{at}}}:all_executions", keys.members(ffc.FlowId(FLOW), 256),
    ]  # fmt: skip
    # In another partition than its flow's, it cannot be written to the flow's members in one call.
    other = f"{{fp:{(at + 1) % 256}}}:{id_.uuid}"
    assert completion_call(other, "success", flow_id="{" + FLOW.upper() + "}")[2] == "5"
    assert FLOW in completion_call(other, "success", flow_id="{" + FLOW.upper() + "}")


@pytest.mark.parametrize(
    ("id_", "options", "kind"),
    [
        ("{fp:256}:550e8400-e29b-41d4-a716-446655440000", {}, "execution id"),
        ("{fp:007}:550e8400-e29b-41d4-a716-446655440000", {}, "execution id"),
        ("{fp:7}:550e8400e29b41d4a716446655440000", {}, "execution id"),
        ("nonsense", {}, "execution id"),
        (None, {"lane": ""}, "lane"),
        (None, {"lane": "x" * 65}, "lane"),
        (None, {"lane": "m\n"}, "lane"),
        (None, {"flow_id": "x"}, "flow id"),
        (None, {"outcome": "done"}, "outcome"),
        (None, {"outcome": "other"}, "outcome"),
    ],
)
def test_calls_that_cannot_be_right_are_not_built(id_: str | None, options: dict[str, Any], kind: str) -> None:
    """With the kind of what is wrong."""
    given = {"outcome": "success", **options}
    with pytest.raises(ffc.Validation) as caught:
        completion_call(id_ or ffc.ExecutionId.new(), **given)
    assert caught.value.kind == kind


async def test_keys_that_do_not_fit_are_refused_before_anything_is_written(producing: ValkeyWorld) -> None:
    """Another key in each place, the bare uuid, a key of the wrong type: nothing is written, nothing announced."""
    id_ = ffc.ExecutionId.new(FLOW)
    calls = {
        "complete": completion_call(id_, "success", flow_id=FLOW, tags={"k": "v"}, result="r"),
        "submit": submission_call(id_, flow_id=FLOW, tags={"k": "v"}),
    }
    async with producing.backend(reconcile_interval=3600) as backend, ffc.subscribe(backend) as stream:
        for call in calls.values():
            wrong = [[*call[:3], *"abcdef", *call[9:]], [*call[:2], "5", *"abcde", *call[9:]]]
            for place in range(3, 9):
                wrong.append([*call[:place], "x", *call[place + 1 :]])
                bare = str(call[place]).replace(id_, str(id_.uuid))
                if bare != call[place]:
                    wrong.append([*call[:place], bare, *call[place + 1 :]])
            for bad in (str(id_.uuid), f"{{fp:256}}:{id_.uuid}", f"{{fp:0{id_.partition}}}:{id_.uuid}"):
                wrong.append([*call[:9], bad, *call[10:]])
            wrong.append([*call[:10], "no flow", *call[11:]])
            wrong.append([*call, "a tag without a value"])
            for words in wrong:
                with pytest.raises(Exception, match="ResponseError"):
                    await producing.command(*words)
        assert await all_keys(producing) == {}
        # A key of another type, in each place.
        for place in range(3, 9):
            name = calls["complete"][place]
            kind = ("LPUSH", name, "x")
            await producing.command(*kind)
            before = await all_keys(producing)
            for call in calls.values():
                with pytest.raises(Exception, match=f"key {place - 2} holds a list"):
                    await producing.command(*call)
            assert await all_keys(producing) == before
            await producing.command("DEL", name)
        # And then it works; the stream has had nothing of all that.
        assert await producing.command(*calls["submit"]) == 1
        assert await producing.command(*calls["complete"]) == 1
        told = await asyncio.wait_for(anext(stream), 20)
        assert (told.execution_id, told.outcome) == (id_, "success")


async def test_a_user_who_may_not_announce_writes_nothing(producing: ValkeyWorld) -> None:
    """The line of the guide suffices; without its channel nothing is left half done."""
    line = re.search(r"^ACL SETUSER emitter (.*)$", (DOCS / "producers.md").read_text(), re.MULTILINE)
    assert line is not None
    rules = line[1].split()
    id_ = ffc.ExecutionId.new()
    url = producing.url.replace("valkey://", "valkey://emitter:password@")
    emitter = ValkeyWorld(url)
    try:
        await producing.command(
            "ACL", "SETUSER", "emitter", "reset", *[rule for rule in rules if not rule.startswith("&")]
        )
        with pytest.raises(Exception, match=r"(?i)channel|permission"):
            await emitter.command(*completion_call(id_, "success"))
        assert await all_keys(producing) == {}
        await emitter.close()
        await producing.command("ACL", "SETUSER", "emitter", "reset", *rules)
        emitter = ValkeyWorld(url)
        assert await emitter.command(*submission_call(id_, flow_id=FLOW, tags={"k": "v"})) == 1
        assert await emitter.command(*completion_call(id_, "success", result="r")) == 1
        assert await emitter.command(*submission_call(id_)) == 1
        with pytest.raises(Exception, match=r"(?i)permission"):
            await emitter.command("GET", keys.result(id_))
    finally:
        await emitter.close()
        await producing.command("ACL", "DELUSER", "emitter")
