"""Replies: whatever a record holds, nothing is raised but the server's own refusal."""

from __future__ import annotations

import pytest
from glide import RequestError
from hypothesis import given
from hypothesis import strategies as st

from ffcompletion.backends.valkey import replies

WRONG_TYPE = RequestError("WRONGTYPE: Operation against a key holding the wrong kind of value")
LOADING = RequestError("LOADING: the dataset is being loaded")
FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"

ANYTHING = st.recursive(
    st.none() | st.integers() | st.binary() | st.text() | st.just(WRONG_TYPE),
    lambda inner: st.lists(inner) | st.dictionaries(st.binary(), inner),
)


@given(ANYTHING)
def test_reading_is_total(reply: object) -> None:
    assert isinstance(replies.text_of(reply), str | None)
    assert isinstance(replies.texts(reply, 2), list | None)
    assert all(isinstance(text, str) for item in replies.texts_by_name(reply).items() for text in item)
    assert 0 < replies.partition_count(reply) <= 65_535
    assert isinstance(replies.flow_of(replies.text_of(reply)), str | None)


def test_a_refusal_is_raised_and_a_wrong_type_is_an_answer() -> None:
    replies.raise_refusal([b"x", None, WRONG_TYPE])
    with pytest.raises(RequestError, match="LOADING"):
        replies.raise_refusal([b"x", LOADING])


def test_what_is_sound_is_read() -> None:
    assert replies.text_of(b"\xff") is None
    assert replies.texts([b"a", None], 2) == ["a", None]
    assert replies.texts([b"a"], 2) is None
    assert replies.texts_by_name({b"a": b"1", b"\xff": b"2", b"c": None}) == {"a": "1"}
    assert replies.milliseconds("1700000000000") == 1_700_000_000_000
    assert [replies.milliseconds(text) for text in (None, "", "1.5", "²", "1" * 19)] == [0] * 5
    assert replies.server_ms([b"1700000000", b"999999"]) == 1_700_000_000_999
    assert [replies.partition_count(reply) for reply in (b"16", b"0", b"70000", None)] == [16, 256, 256, 256]
    assert replies.flow_of(FLOW) == FLOW
    assert replies.flow_of("") is None


def test_a_command_that_takes_too_long_is_named_without_its_arguments() -> None:
    """They may hold anything; whoever catches it can still ask which they were."""
    found = replies.TooSlowError(["ZRANGE", "a key of somebody's"])
    assert (str(found), found.command) == ("ZRANGE took too long", ["ZRANGE", "a key of somebody's"])
