"""What a position is a position in: the same text for the same completions, and another for others."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.consumers.selection import (
    check_selection,
    cursor_family,
    former_selection_text,
    own_family,
    selection_text,
    stored_checkpoint,
)

A, B = ffc.ScannerFilter("a"), ffc.ScannerFilter("b", ("k", "v"))
POSITION = ffc.StreamCursor.outbox(5)


class Own:
    tag_key = None

    def is_noop(self) -> bool:
        return False

    def matches(self, namespace: str | None, tag: str | None) -> bool:
        return namespace == "a"


@pytest.mark.parametrize(
    ("cursor", "family"),
    [
        (ffc.StreamCursor.empty(), ""),
        (ffc.StreamCursor.beginning(), ""),
        (ffc.StreamCursor.outbox(5), "outbox"),
        (ffc.StreamCursor.stream(1, 2), "stream"),
        (ffc.CursorFamily(0xA7).at(5), "0xa7"),
    ],
)
def test_whose_cursor_it_is(cursor: ffc.StreamCursor, family: str) -> None:
    """The beginning and "from now" are everybody's."""
    assert cursor_family(cursor) == family


def test_whose_cursors_a_backend_takes() -> None:
    class Says:
        cursor_prefix = 0xA7

    says: Any = Says()
    nothing: Any = object()
    assert (own_family(says), own_family(nothing)) == ("0xa7", "")


def test_everything_has_no_text() -> None:
    assert selection_text(None, None, None) == selection_text(ffc.ScannerFilter.NOOP, None, None) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ffc.any_of(A, B), ffc.any_of(B, A)),
        (ffc.all_of(A, ffc.any_of(A, B)), ffc.all_of(ffc.any_of(B, A), A)),
        (A, ffc.ScannerFilter("a")),
    ],
)
def test_the_same_completions_are_the_same_text(one: ffc.CompletionFilter, other: ffc.CompletionFilter) -> None:
    assert selection_text(one, None, None) == selection_text(other, None, None)


def test_other_completions_are_another_text() -> None:
    wanted = [A, B, ffc.ScannerFilter(None, ("k", "v")), ffc.any_of(A, B), ffc.all_of(A, B)]
    texts = {selection_text(each, rows, None) for each in wanted for rows in (None, range(0, 8, 2), range(8))}
    assert len(texts) == 15


def test_partitions_however_they_are_given() -> None:
    """A row with one step, or any set."""
    row = selection_text(None, range(0, 8, 2), None)
    assert row == selection_text(None, [6, 0, 2, 4], None) == selection_text(None, {0, 2, 4, 6}, None)
    assert selection_text(None, [1, 2, 7], None) == '{"partitions":[1,2,7]}'
    assert selection_text(None, [3], None) == '{"partitions":[3]}'


def test_a_filter_of_ones_own_is_said_in_words() -> None:
    """Or refused: what it admits may have changed since. Inside a combination as well."""
    for wanted in (Own(), ffc.any_of(A, Own())):
        with pytest.raises(ffc.Validation, match="cannot be told from outside"):
            selection_text(wanted, None, None)
        assert selection_text(wanted, None, "mine") == '{"filter":"mine"}'


def test_how_earlier_versions_wrote_it() -> None:
    assert former_selection_text(B, range(0, 8, 2), None) == {"namespace='b' tag=('k', 'v') partitions=range(0, 8, 2)"}
    assert former_selection_text(None, [2, 1], None) == {"partitions=[1, 2]"}
    assert former_selection_text(None, None, None) == {""}
    assert former_selection_text(Own(), None, "mine") == {"filter='mine'", "mine", f"{__name__}.Own"}


def test_a_checkpoint_of_other_completions_is_refused() -> None:
    stored = ffc.Checkpoint(cursor=POSITION, backend="outbox", selection="old text")
    check_selection("w", stored, "old text", frozenset())
    check_selection("w", stored, "new text", {"old text"})
    with pytest.raises(ffc.Validation, match="stored for old text, and this is for everything"):
        check_selection("w", stored, "", frozenset())


def test_what_a_store_answers_is_looked_at() -> None:
    """A checkpoint with a cursor in it, or nothing."""
    stored = ffc.Checkpoint(cursor=POSITION, backend="outbox", selection="x")
    assert stored_checkpoint(stored) == stored
    assert stored_checkpoint(None) is None
    no_cursor: Any = "no cursor"
    for wrong in (
        POSITION,
        ffc.Checkpoint(cursor=no_cursor, backend="outbox", selection="x"),
        ffc.Checkpoint(cursor=POSITION, backend="\0", selection="x"),
    ):
        with pytest.raises(ffc.Validation):
            stored_checkpoint(wrong)
