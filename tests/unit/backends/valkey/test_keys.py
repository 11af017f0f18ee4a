"""Key names: the engine's, letter for letter, and all of one execution's in one slot."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey import keys
from ffcompletion.producers.calls import completion_call

BARE = "550e8400-e29b-41d4-a716-446655440000"
ID = ffc.ExecutionId(f"{{fp:7}}:{BARE}")


@pytest.mark.parametrize(
    ("digits", "tag"), [("7", "{fp:7}"), ("0", "{fp:0}"), ("+7", "{fp:7}"), ("007", "{fp:7}"), ("00", "{fp:0}")]
)
def test_the_tag_is_the_number_and_the_id_is_kept(digits: str, tag: str) -> None:
    id_ = ffc.ExecutionId(f"{{fp:{digits}}}:{BARE}")
    assert keys.tag_of(id_) == tag
    assert keys.core(id_) == f"ff:exec:{tag}:{id_}:core"


def test_every_name() -> None:
    assert (keys.CHANNEL, keys.LANES, keys.PARTITIONS) == ("ff:dag:completions", "ff:idx:lanes", "ff:config:partitions")
    assert keys.tags(ID) == f"ff:exec:{{fp:7}}:{ID}:tags"
    assert keys.result(ID) == f"ff:exec:{{fp:7}}:{ID}:result"
    assert keys.terminal(7, "default") == "ff:idx:{fp:7}:lane:default:terminal"
    assert keys.all_executions(7) == "ff:idx:{fp:7}:all_executions"


def test_the_producer_writes_what_the_reader_reads() -> None:
    """Its calls spell the names themselves: they need no driver."""
    flow = ffc.FlowId("c0ffee00-0000-4000-8000-000000000000")
    id_ = ffc.ExecutionId.new(flow)
    call = completion_call(id_, "success", flow_id=flow)
    assert call[3:9] == [
        keys.core(id_), keys.tags(id_), keys.result(id_), keys.terminal(id_.partition, "default"),
        keys.all_executions(id_.partition), keys.members(flow, 256),
    ]  # fmt: skip
