"""Text that a server or a file can hold."""

from __future__ import annotations

import json

import pytest
from typing_extensions import override

from ffcompletion import Validation
from ffcompletion.contract.text import check_text, json_line


class Loud(str):
    """A string that says something else of itself."""

    __slots__ = ()

    @override
    def __str__(self) -> str:
        return "LOUD"


def test_plain_text_passes() -> None:
    assert check_text("tag", "a key", "é") == "é"
    made = check_text("tag", "a key", Loud("quiet"))
    assert (made, type(made)) == ("quiet", str)


@pytest.mark.parametrize(("value", "why"), [(7, "not int"), ("a\0", "NUL"), ("\ud800", "surrogate")])
def test_the_rest_is_refused(value: object, why: str) -> None:
    with pytest.raises(Validation, match=why):
        check_text("tag", "a key", value)


@pytest.mark.parametrize(
    "text", ["plain", "é", "\u2028\u2029\x85\r\n", "\x9b31m\x1b[2J\x7f", "\u202e", "\U000e0001\U0001f600"]
)
def test_json_is_one_printable_line_and_loses_nothing(text: str) -> None:
    """Python's own ``splitlines`` ends lines where JSON does not, and a terminal obeys controls above ASCII, too."""
    line = json_line({text: text})
    assert line.isprintable()
    assert line.splitlines() == [line]
    assert json.loads(line) == {text: text}


def test_what_can_be_shown_is_shown_as_it_is() -> None:
    assert json_line("é\U0001f600") == '"é\U0001f600"'
