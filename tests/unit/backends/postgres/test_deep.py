"""What nobody looked at, far below where a reader began."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres import deep
from ffcompletion.backends.postgres.deep import Deep


def test_whoever_was_under_way_is_waited_for() -> None:
    """Unknown is not none; a prepared one goes on under another name, and a server that was restarted is asked anew."""
    made = Deep(100)
    assert made.owned == 100
    made.narrow(frozenset({"1/1", "2/1"}), frozenset())
    made.narrow(frozenset({"2/1", "3/1"}), frozenset())
    assert made.copy().owned == 100
    made.narrow(frozenset({"-1/7"}), frozenset({"-1/7"}))
    assert made.owned == 100
    made.forget_owners()
    made.narrow(frozenset(), frozenset())
    assert (made.owned, made.floor) == (0, 100)
    made.forget_owners()
    assert made.owned == 0
    assert Deep(100, ()).owned == Deep().owned == 0


def test_an_announcement_is_believed_once_and_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was missed and came counts for nothing; with too many that are to be remembered, none is believed any more."""
    monkeypatch.setattr(deep, "_BELIEVED", 2)
    monkeypatch.setattr(deep, "_EARLY", 4)
    made = Deep(100)
    made.handed_out(101, missed=False)
    made.handed_out(7, missed=True)
    made.announced([7, 0, 101, 9, 8])
    assert [made.expects(event_id) for event_id in (7, 8, 9, 101)] == [False, True, True, False]
    made.handed_out(8, missed=False)
    assert not made.expects(8)
    assert made.still_missing([(6, 9)]) == [(6, 6), (9, 9)]
    assert made.copy().still_missing([(7, 8)]) == []
    made.announced([10, 11])
    assert (made.expects(10), made.expects(11)) == (True, False)
    made.rewind(7)
    assert (made.floor, made.still_missing([(7, 8)])) == (7, [(8, 8)])
    for event_id in range(1, 6):
        made.handed_out(event_id, missed=True)
    made.announced([6])
    assert (made.expects(6), made.still_missing([(7, 7)])) == (False, [(7, 7)])
    nothing = Deep()
    nothing.announced([1])
    assert not nothing.expects(1)
