"""Ids of jobs in attached tables, without a server; ``tests/adapters/attaching/test_ids.py`` holds SQL against them."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcompletion import Validation
from ffcompletion.contract.attached import attached_flow_id, attached_id, attached_key

HIGHEST = (1 << 63) - 1


@given(st.integers(-(1 << 63), HIGHEST))
def test_a_number_is_read_back(number: int) -> None:
    """As it was, and for the attachment that it belongs to."""
    made = attached_id("jobs", number)
    assert made == attached_id("jobs", str(number))
    assert attached_key(made) == attached_key(made, "jobs") == number
    assert attached_key(made, "other") is None
    assert made.partition == int(made[-2:], 16)
    assert attached_flow_id("jobs", number) != str(made.uuid)


def test_a_uuid_is_itself_and_a_text_is_hashed() -> None:
    """What was hashed cannot be read back."""
    own = UUID("550e8400-e29b-41d4-a716-446655440000")
    assert attached_key(attached_id("jobs", own), "jobs") == own
    for text in ("007", "no number", str(1 << 64)):
        assert attached_key(attached_id("jobs", text)) is None
    flow = attached_flow_id("jobs", "a text")
    assert attached_key(f"{{fp:1}}:{flow}") is None


@pytest.mark.parametrize(
    ("name", "key"),
    [("", 1), ("a\0", 1), ("jobs", True), ("jobs", HIGHEST + 1), ("jobs", ""), ("jobs", "a\0"), ("jobs", "\ud800")],
)
def test_what_is_no_key_is_refused(name: str, key: int | str) -> None:
    with pytest.raises(Validation):
        attached_id(name, key)
