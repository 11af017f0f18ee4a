"""Rows of the outbox, in bulk; and tags, however deep."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ffcompletion.backends.postgres.rows import Row, decode, not_below, tags_of, with_results
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import ExecutionId, FlowId

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
NAMES = [f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544000{number}" for number in range(5)]
AT = StreamCursor.outbox


def row(event_id: int, flow: str | None = FLOW, at_ms: int | None = 17) -> Row:
    return event_id, NAMES[event_id], "success", at_ms, flow, None


def test_rows_are_payloads_and_no_cursor_passes_the_watermark() -> None:
    """Whoever resumes there gets what is still held below."""
    rows = [row(1), row(2), row(4)]
    found = decode(rows, 2)
    assert (found.rows, found.malformed) == (rows, 0)
    assert [(one.execution_id, one.outcome, one.produced_at_ms, one.flow_id, one.cursor) for one in found.payloads] == [
        (NAMES[event_id], "success", 17, FLOW, AT(min(event_id, 2))) for event_id in (1, 2, 4)
    ]
    assert {(type(one.execution_id), type(one.flow_id)) for one in found.payloads} == {(ExecutionId, FlowId)}
    assert found.places == {NAMES[event_id]: event_id for event_id in (1, 2, 4)}


def test_what_a_row_lacks_is_absent() -> None:
    """A flow, a time."""
    found = decode([row(1, None), row(2, FLOW, None)], 2)
    assert [(one.flow_id, one.produced_at_ms) for one in found.payloads] == [(None, 17), (FLOW, 0)]


def test_rows_that_are_no_completions_are_passed_over_and_malformed_ones_counted() -> None:
    """An execution that goes on is no fault."""
    odd: list[Row] = [(1, None, "success", 17, None, None), (2, NAMES[2], None, 17, None, None)]
    resumable: Row = (3, NAMES[3], "resumable", 17, None, None)
    found = decode([*odd, resumable, row(4)], 4)
    assert (found.rows, [one.execution_id for one in found.payloads], found.malformed) == ([row(4)], [NAMES[4]], 2)
    assert (decode([resumable], 4).malformed, decode(odd, 4).malformed, len(decode(odd, 4).payloads)) == (0, 2, 0)
    assert decode([], 4).rows == ()


def test_results_are_put_beside() -> None:
    """The rest stays what it is."""
    plain = decode([row(1), row(2), row(3)], 3).payloads
    found = with_results(plain, {NAMES[1]: b"", NAMES[2]: None, NAMES[4]: b"x"})
    assert [one.payload_bytes for one in found] == [b"", None, None]
    assert decode([row(1)], 3).payloads[0] == plain[0]
    assert (found[0].execution_id, found[0].flow_id, found[0].cursor) == (NAMES[1], FLOW, AT(1))
    assert found[1] is plain[1]


def test_no_cursor_lies_below_where_the_stream_stands() -> None:
    payloads = decode([row(1), row(2), row(4)], 4).payloads
    assert [one.cursor for one in not_below(payloads, AT(2))] == [AT(2), AT(2), AT(4)]
    assert not_below(payloads, AT(1)) is payloads
    assert not_below((), AT(1)) == ()


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        pytest.param(None, {}, id="none"),
        pytest.param("null", {}, id="null"),
        pytest.param('{"a": "b"}', {"a": "b"}, id="strings"),
        pytest.param(
            '{"n": 1.10, "l": ["a", 1], "o": {"x": null}, "t": true, "z": null, "s": "\\u00e9"}',
            {"n": "1.10", "l": '["a", 1]', "o": '{"x": null}', "t": "true", "s": "é"},
            id="others",
        ),
        pytest.param("[1, 2]", {}, id="a list"),
        pytest.param('{"k": "\\ud800"}', None, id="no text"),
        pytest.param('{"d": ' + "[" * 5_000 + "]" * 5_000 + "}", None, id="too deep"),
    ],
)
def test_tags_are_rendered_as_sql_renders_them(text: str | None, tags: dict[str, str] | None) -> None:
    """One answer everywhere: what is no string counts with its JSON text; what cannot be decoded is unknown."""
    assert tags_of(text) == tags


def _nested(depth: int) -> str:
    return '{"k": "v", "d": ' + "[" * depth + "]" * depth + "}"


def _from_deep_below(depth: int, text: str) -> Mapping[str, str] | None:
    return tags_of(text) if depth == 0 else _from_deep_below(depth - 1, text)


@pytest.mark.parametrize("below", [0, 300])
@pytest.mark.parametrize(("depth", "read"), [(1, True), (499, True), (500, False), (900, False), (10_000, False)])
def test_how_deep_tags_are_read_does_not_depend_on_who_asks(depth: int, read: bool, below: int) -> None:
    """The parser's own limit is what is left of the interpreter's stack."""
    found = _from_deep_below(below, _nested(depth))
    assert found == ({"k": "v", "d": "[" * depth + "]" * depth} if read else None)


def test_brackets_in_texts_and_side_by_side_are_not_deep() -> None:
    assert tags_of('{"k": "' + "[" * 600 + '"}') == {"k": "[" * 600}
    assert tags_of('{"k": "v", "d": [' + ",".join(["[]"] * 600) + "]}") is not None
    assert tags_of('{"k": "v", "d": "' + '\\"[' * 600 + '"}') == {"k": "v", "d": '"[' * 600}
