"""Names and values in SQL: nothing in them ends the quotes."""

from __future__ import annotations

import msgspec
import pytest

from ffcompletion.attaching import preset
from ffcompletion.attaching.quoting import (
    byte_for_byte,
    dollars,
    function_name,
    identifier,
    literal,
    result_table,
    table,
)

PLAIN = msgspec.structs.replace(preset("procrastinate"), table="jobs", result_table=None)


@pytest.mark.parametrize(("name", "quoted"), [("jobs", '"jobs"'), ('a"b', '"a""b"'), ("Größe %", '"Größe %"')])
def test_an_identifier(name: str, quoted: str) -> None:
    """Its own quotes are doubled."""
    assert identifier(name) == quoted


def test_a_literal() -> None:
    """Quotes are doubled, nothing is NULL, and a backslash reads the same whatever the session's settings are."""
    assert literal(None) == "NULL"
    assert literal("it's") == "'it''s'"
    assert literal("a\\b") == "E'a\\\\b'"


def test_tables_with_and_without_a_schema() -> None:
    """Each part is quoted alone; results may be in a table of their own."""
    elsewhere = msgspec.structs.replace(PLAIN, table="app.jobs", result_table="app.results")
    beside = msgspec.structs.replace(PLAIN, result_table="results")
    assert (table(PLAIN), table(elsewhere)) == ('"jobs"', '"app"."jobs"')
    assert [result_table(each) for each in (PLAIN, elsewhere, beside)] == [None, '"app"."results"', '"results"']


def test_a_function_is_named_within_the_limit() -> None:
    """However long the attachment's name is, and each has one of its own."""
    names = {function_name(name) for name in ("a", "b", "x" * 63, "ü" * 63)}
    assert len(names) == 4
    assert all(len(name.encode()) < 50 for name in names)


def test_a_body_in_dollars_is_not_ended_by_its_own_text() -> None:
    """The mark grows until it stands in none of the texts."""
    assert dollars("ff", "plain") == "$ff$"
    mark = dollars("ff", "a $ff$ b", "c $fff$ d")
    assert mark == "$ffff$"


def test_states_are_compared_as_text() -> None:
    """The type's own output, under no collation but the bytes'."""
    assert (
        byte_for_byte("NEW", 'the "state"') == 'pg_catalog.format(\'%s\', NEW."the ""state""") COLLATE pg_catalog."C"'
    )
