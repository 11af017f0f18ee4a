"""What a program says of a completion: plain values are taken, and whatever no server could hold is refused."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory.given import ms_of, namespace_of, outcome_of, result_of, tags_of
from tests.worlds.equal import EqualText


def test_what_is_plain_is_taken_as_it_is() -> None:
    assert (namespace_of("a"), namespace_of(None), outcome_of("success")) == ("a", None, "success")
    assert tags_of({"k": "v"}) == {"k": "v"}
    assert tags_of(None) is None
    assert (ms_of(0), ms_of(-1), ms_of((1 << 63) - 1)) == (0, -1, (1 << 63) - 1)


def test_results_are_nobody_s_to_change() -> None:
    """A buffer is copied."""
    data = bytearray(b"one")
    taken = result_of(data)
    data[:] = b"two"
    assert taken == b"one"
    assert result_of(memoryview(b"abc")[1:]) == b"bc"
    assert (result_of(b"x"), result_of(None)) == (b"x", None)


@pytest.mark.parametrize(
    ("take", "given"),
    [
        (namespace_of, 5), (namespace_of, b"a"), (namespace_of, "\ud800"), (outcome_of, None), (outcome_of, "a\0"),
        (tags_of, [("k", "v")]), (tags_of, {"k": 1}), (tags_of, {1: "v"}), (tags_of, {"k": "\0"}),
        (ms_of, 1.5), (ms_of, True), (ms_of, 1 << 63), (ms_of, -(1 << 63) - 1), (ms_of, "1"), (result_of, "text"),
    ],
)  # fmt: skip
def test_what_no_server_could_hold_is_refused(take: Any, given: object) -> None:
    with pytest.raises(ffc.Validation):
        take(given)


def test_nobody_s_own_idea_of_equality_is_kept() -> None:
    """It would be handed to filters of other tenants."""
    for taken in (
        namespace_of(EqualText("a")),
        outcome_of(EqualText("a")),
        *(tags_of({EqualText("k"): EqualText("v")}) or {}),
    ):
        assert type(taken) is str
