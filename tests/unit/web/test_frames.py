"""Server-sent events, byte for byte."""

from __future__ import annotations

import msgspec

import ffcompletion as ffc
from ffcompletion.web.frames import completion_frame, event, id_frame

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
FLOW = ffc.FlowId("a76a8496-6e9c-457a-8727-b5169796f3cd")


def test_a_position_is_no_event() -> None:
    assert id_frame("02ab") == b"id: 02ab\n\n"


def test_data_is_one_line() -> None:
    """Whatever text is in it: a line break would end the field."""
    assert event("lost", {"why": "a\nb\r"}) == b'event: lost\ndata: {"why":"a\\nb\\r"}\n\n'


def test_a_completion_with_all_that_is_known() -> None:
    frame = completion_frame(ffc.CompletionPayload(ID, "failure", None, 1_000, FLOW), "02ab", 1_250, "tenant")
    head, data = frame.removesuffix(b"\n\n").split(b"\ndata: ")
    assert head == b"id: 02ab\nevent: completion"
    assert msgspec.json.decode(data) == {
        "execution_id": ID, "outcome": "failure", "kind": "failed", "flow_id": FLOW, "produced_at_ms": 1_000, "lag_ms": 250,
        "namespace": "tenant",
    }  # fmt: skip


def test_what_is_not_known_is_null() -> None:
    """No flow, no time; no id where there is no position, and no namespace unless it is to be told."""
    frame = completion_frame(ffc.CompletionPayload(ID, "success"), None, 1_250)
    assert frame.startswith(b"event: completion\ndata: ")
    data = msgspec.json.decode(frame.removesuffix(b"\n\n").partition(b"data: ")[2])
    assert (data["flow_id"], data["lag_ms"], "namespace" in data) == (None, None, False)


def test_a_clock_that_is_behind_the_server_s_makes_no_negative_lag() -> None:
    assert b'"lag_ms":0}' in completion_frame(ffc.CompletionPayload(ID, "success", None, 2_000), None, 1_250)


def test_no_text_is_a_line_of_its_own() -> None:
    """Not for clients either that end lines where Unicode does, as Python's do: a tenant could forge others' events."""
    forged = 'x\u2028\u2028event: completion\u2029data: {"execution_id": "mine"}\x85\r\n'
    frame = completion_frame(ffc.CompletionPayload(ID, forged), "02ab", 1_250, forged).decode()
    assert [line.partition(":")[0] for line in frame.splitlines()] == ["id", "event", "data", ""]
    data = msgspec.json.decode(frame.partition("data: ")[2])
    assert (data["outcome"], data["namespace"]) == (forged, forged)
