"""Rows and records: how deep tags are read is counted, whoever calls."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ffcompletion.backends.postgres.rows import tags_of


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
