"""Text that a server or a file can hold."""

from __future__ import annotations

import pytest
from typing_extensions import override

from ffcompletion import Validation
from ffcompletion.contract.text import check_text


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
