"""Calls of the Lua functions: keys and arguments that fit each other, or nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.producers.calls import completion_call, forgetting_call, submission_call

ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"
FLOW = "c0ffee00-0000-4000-8000-000000000000"


def test_the_words_of_each_call() -> None:
    """As many keys as are said."""
    done = completion_call(ID, "failed", namespace="a", result=b"why", tags={"k": "v"})
    assert done[:3] == ["FCALL", "ffcompletion_complete", "5"]
    assert done[8:] == [ID, "", "a", "default", "failed", b"why", "k", "v"]
    begun = submission_call(ID, lane="fast", tags={"k": "v"})
    assert begun[:3] == ["FCALL", "ffcompletion_submit", "5"]
    assert begun[8:] == [ID, "", "", "fast", "k", "v"]
    assert forgetting_call(ID, 5)[8:] == [ID, "default", "5", "terminal"]
    assert forgetting_call(ID, 5, unfinished=True)[8:] == [ID, "default", "5", "unfinished"]


def test_a_flow_s_members_are_kept_where_they_can_be() -> None:
    """In another partition they are another slot's, which one call cannot reach."""
    near = completion_call(ffc.ExecutionId.new(FLOW), "success", flow_id=FLOW.upper())
    assert near[2] == "6"
    assert str(near[8]).endswith(f":{FLOW}:members")
    assert near[10] == FLOW
    partition = (ffc.ExecutionId.new(FLOW).partition + 1) % 256
    far = completion_call(f"{{fp:{partition}}}:{ID[7:]}", "success", flow_id=FLOW)
    assert (far[2], far[9]) == ("5", FLOW)


@pytest.mark.parametrize(
    ("id_", "fields"),
    [
        ("{fp:256}:550e8400-e29b-41d4-a716-446655440000", {}),
        ("{fp:07}:550e8400-e29b-41d4-a716-446655440000", {}),
        ("{fp:7}:550e8400e29b41d4a716446655440000", {}),
        (ID, {"outcome": "other"}),
        (ID, {"outcome": "failure"}),
        (ID, {"lane": ""}),
        (ID, {"lane": "x" * 65}),
        (ID, {"lane": "a\nb"}),
        (ID, {"flow_id": "no flow"}),
    ],
)
def test_what_no_reader_would_find_is_refused(id_: str, fields: dict[str, Any]) -> None:
    """Ids in any spelling but the one, outcomes that are none, lanes that are no key."""
    with pytest.raises(ffc.Validation):
        completion_call(id_, **{"outcome": "success", **fields})
