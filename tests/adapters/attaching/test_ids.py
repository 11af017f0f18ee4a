"""Ids of attached jobs: one vector for Python and SQL, and what was put in comes out again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal
from enum import IntEnum
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.attaching.rendering import shared

VECTORS: list[tuple[str, str, str]] = [
    ("procrastinate", "42", "{fp:42}:06b8e1bf-ffb5-8ff0-8000-00000000002a"),
    ("procrastinate", "0", "{fp:0}:06b8e1bf-ffb5-8ff0-8000-000000000000"),
    ("procrastinate", "-1", "{fp:255}:06b8e1bf-ffb5-8fff-8fff-ffffffffffff"),
    ("dbos", "550e8400-e29b-41d4-a716-446655440000", "{fp:0}:550e8400-e29b-41d4-a716-446655440000"),
]
KEYS = ["42", "042", "+42", "-0", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
        "99999999999999999999", "a", "é\u0301 \U0001f600", "550E8400-E29B-41D4-A716-446655440000", " 42", "42\n",
        "{550e8400-e29b-41d4-a716-446655440000}", "x" * 5000, "'; DROP TABLE x; --", "\\"]  # fmt: skip


@pytest.fixture(scope="module")
def conn(postgres18_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres18_url, autocommit=True) as made:
        made.execute("DROP SCHEMA IF EXISTS attach_ids CASCADE")
        made.execute("CREATE SCHEMA attach_ids")
        made.execute(shared("attach_ids").encode())
        yield made
        made.execute("DROP SCHEMA attach_ids CASCADE")


def test_the_vectors_hold_in_python_and_sql(conn: psycopg.Connection) -> None:
    """Numbers at the limits, UUIDs, and texts that look like either."""
    for name, key, expected in VECTORS:
        assert ffc.attached_id(name, key) == expected
    names = ["procrastinate", "é", "x" * 63, "a\"b'c"]
    for name in names:
        for key in [*KEYS, *(key for _, key, _ in VECTORS)]:
            row = conn.execute(
                "SELECT attach_ids.ff_attached_id(%s, %s), attach_ids.ff_attached_uuid(%s, %s, true)::text",
                (name, key, name, key),
            ).fetchone()
            assert row == (ffc.attached_id(name, key), ffc.attached_flow_id(name, key)), (name, key)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
@example((1 << 63) - 1)
@example(-(1 << 63))
def test_a_number_comes_back(number: int) -> None:
    """As a number or as text; and only under its own name, where one is given."""
    id_ = ffc.attached_id("reports", number)
    assert ffc.attached_id("reports", str(number)) == id_
    assert ffc.attached_key(id_) == ffc.attached_key(id_, "reports") == number
    assert ffc.attached_key(id_, "other") is None
    assert id_.partition == id_.uuid.bytes[-1]
    assert id_.uuid.version == 8
    assert ffc.attached_flow_id("reports", number).uuid != id_.uuid


def test_a_uuid_comes_back_and_a_text_does_not() -> None:
    """A UUID is what it is; a hashed text is in the tag ``key``."""
    made = uuid.uuid4()
    assert ffc.attached_key(ffc.attached_id("dbos", made)) == made
    assert ffc.attached_id("dbos", made) == ffc.attached_id("other", str(made))
    assert ffc.attached_key(ffc.attached_id("dbos", "nightly-2026-01-01")) is None
    assert ffc.attached_id("dbos", "a") != ffc.attached_id("other", "a")
    assert ffc.attached_id("ab", "c") != ffc.attached_id("a", "bc")


def test_texts_and_numbers_of_ones_own_kinds_are_what_they_hold() -> None:
    """Not what they call themselves, as members of enums do."""

    class Named(str):
        __slots__ = ()

        @override
        def __str__(self) -> str:
            return "Named.FIRST"

    class Numbered(IntEnum):
        SECOND = 2

    assert ffc.attached_id("a", Named("first")) == ffc.attached_id("a", "first")
    assert ffc.attached_id("a", Numbered.SECOND) == ffc.attached_id("a", 2)


@pytest.mark.parametrize("key", [True, None, 1.5, b"x", Decimal(1), ("a",)])
def test_what_need_not_read_as_it_does_on_the_server_is_no_key(key: Any) -> None:
    """Named, instead of an id that nobody ever announces."""
    with pytest.raises(ffc.Validation, match=f"not a {type(key).__name__}"):
        ffc.attached_id("a", key)


@pytest.mark.parametrize(
    ("name", "key"), [("", 1), ("a\0", 1), ("a", ""), ("a", "\0"), ("a", "\ud800"), ("a", 1 << 63), ("a", True)]
)
def test_what_no_key_can_be_is_refused(name: str, key: int | str) -> None:
    """With our own error."""
    with pytest.raises(ffc.Validation):
        ffc.attached_id(name, key)
