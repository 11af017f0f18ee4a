"""A completion as a line: nothing from the wire reaches a terminal as it is, and JSON loses nothing."""

from __future__ import annotations

import base64
import json

import pytest

import ffcompletion as ffc
from ffcompletion.cli.showing import COLOURS, as_json, as_text, moment, printable
from ffcompletion.contract.attached import attached_id

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
FLOW = ffc.FlowId("a76a8496-6e9c-457a-8727-b5169796f3cd")


def completion(outcome: str = "success", result: bytes | None = None) -> ffc.CompletionPayload:
    return ffc.CompletionPayload(ID, outcome, result, 1_700_000_000_123, FLOW, cursor=ffc.StreamCursor.outbox(5))


def test_json_has_the_wires_names() -> None:
    line = json.loads(as_json(completion()))
    assert line == {
        "execution_id": ID, "outcome": "success", "flow_id": FLOW, "produced_at_ms": 1_700_000_000_123,
        "cursor": ffc.StreamCursor.outbox(5).to_text(),
    }  # fmt: skip
    bare = json.loads(as_json(ffc.CompletionPayload(ID, "failed")))
    assert bare["flow_id"] is None
    assert "cursor" not in bare


@pytest.mark.parametrize("result", [b'{"a": 1}', b"\xff\x00", b"", None])
def test_json_gives_a_result_back_whole(result: bytes | None) -> None:
    """As text where it is UTF-8, and as base64 where it is not."""
    line = json.loads(as_json(completion(result=result), result=True))
    told = base64.b64decode(line["result_base64"]) if "result_base64" in line else line["result"]
    assert (told.encode() if isinstance(told, str) else told) == result
    assert "result" not in json.loads(as_json(completion(result=result)))


def test_nothing_from_the_wire_is_sent_to_the_terminal() -> None:
    """Neither an outcome nor a result moves its cursor, clears it, or ends the line."""
    hostile = "\x1b[2J\r\n\x07"
    text = as_text(completion(hostile, hostile.encode()), result=True).plain
    assert text.isprintable()
    assert "\\x1b[2J\\x0d\\x0a\\x07" in text
    assert printable("ä\u202e") == "ä\\x202e", "nor does it turn what follows round"


def test_a_result_is_shown_as_far_as_a_line_goes() -> None:
    assert as_text(completion(result=b"x" * 101), result=True).plain.endswith("x" * 100 + "…")
    assert as_text(completion(result=b"\xff" * 101), result=True).plain.endswith("(101 bytes)")
    assert as_text(completion(result=b"secret")).plain.endswith(f"flow {FLOW}"), "only where it was asked for"


def test_a_job_is_shown_by_its_key() -> None:
    """Of the table that was named."""
    job = ffc.CompletionPayload(attached_id("jobs", 42), "success")
    assert "jobs 42" in as_text(job, attached="jobs").plain
    assert json.loads(as_json(job, attached="jobs"))["key"] == 42
    assert str(job.execution_id) in as_text(job).plain


def test_each_outcome_has_a_colour_and_none_is_named() -> None:
    assert set(COLOURS) == set(ffc.Outcome)
    assert "(none)" in as_text(completion("")).plain


@pytest.mark.parametrize("at_ms", [(1 << 63) - 1, -(1 << 63), 253_402_300_800_000, 1])
def test_a_time_that_no_calendar_has_is_shown_as_it_is(at_ms: int) -> None:
    """Whoever writes rows can write any."""
    line = as_text(ffc.CompletionPayload(ID, "success", None, at_ms)).plain
    assert str(ID) in line
    assert (moment(at_ms) is None) is line.startswith(f"{at_ms} ms")


def test_json_is_one_line_on_any_terminal() -> None:
    line = as_json(completion("\u2028\x9b31m"))
    assert line.isprintable()
    assert json.loads(line)["outcome"] == "\u2028\x9b31m"
