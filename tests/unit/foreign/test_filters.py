"""A caller's filter: asked in one way, compared as an object, and withheld whatever is no plain yes or no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.foreign.filters import ForeignFilter, admits, asked_at_once, checked_filter, is_noop


class Own:
    """Answers what it is told to; equal to everything, as it says."""

    def __init__(self, says: Callable[[], Any], key: Callable[[], Any] = lambda: None, noop: Any = False) -> None:
        self.says, self.key, self.noop = says, key, noop

    @property
    def tag_key(self) -> Any:
        return self.key()

    def is_noop(self) -> Any:
        return self.noop

    def matches(self, namespace: str | None, tag: str | None) -> Any:
        return self.says()

    @override
    def __eq__(self, other: object) -> bool:
        return True

    @override
    def __hash__(self) -> int:
        return 0


def fails() -> Any:
    raise SystemExit


async def later() -> bool:
    return True


@pytest.mark.parametrize(
    ("says", "verdict"), [(lambda: True, True), (lambda: False, False), (lambda: 1, None), (fails, None), (later, None)]
)
def test_what_is_no_plain_yes_withholds(says: Callable[[], Any], verdict: bool | None) -> None:
    """And is counted, unless it is a plain no."""
    wanted = checked_filter(Own(says))
    assert isinstance(wanted, ForeignFilter)
    assert admits(wanted, "a", None) is verdict
    assert wanted.matches("a", None) is (verdict is True)
    assert wanted.failures == 2 * (verdict is None)


def test_ours_are_taken_as_they_are() -> None:
    """The no-op is no filter; what holds somebody's code is somebody's."""
    mine = ffc.ScannerFilter("a")
    assert checked_filter(mine) is mine
    assert (
        checked_filter(None) is checked_filter(ffc.ScannerFilter.NOOP) is checked_filter(Own(fails, noop=True)) is None
    )
    assert isinstance(checked_filter(ffc.any_of(mine, Own(fails))), ForeignFilter)
    assert asked_at_once(mine, 1_000) == 1_000
    assert asked_at_once(checked_filter(Own(fails)), 1_000) < 1_000


@pytest.mark.parametrize("noop", [1, None, "no"])
def test_whether_it_is_a_no_op_is_said_in_one_word(noop: object) -> None:
    with pytest.raises(ffc.Validation, match="no bool"):
        is_noop(Own(fails, noop=noop))


@pytest.mark.parametrize("key", [fails, lambda: 7, lambda: "", lambda: "\ud800", lambda: "a\0"])
def test_a_tag_that_no_server_can_hold_is_refused(key: Callable[[], Any]) -> None:
    with pytest.raises(ffc.Validation):
        checked_filter(Own(fails, key))


def test_only_the_very_same_object_is_the_same_filter() -> None:
    """Whatever it says of itself; and its tag is what it was when it was looked at."""
    one, other = Own(fails), Own(fails)
    assert ForeignFilter(one) == ForeignFilter(one)
    assert hash(ForeignFilter(one)) == hash(ForeignFilter(one))
    assert ForeignFilter(one) != ForeignFilter(other)
    keys = iter("kl")
    changing = Own(fails, lambda: next(keys))
    first, second = ForeignFilter(changing), ForeignFilter(changing)
    assert (first.tag_key, second.tag_key, first == second) == ("k", "l", False)
