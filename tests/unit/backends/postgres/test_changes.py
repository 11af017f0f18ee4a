"""Which partitions are looked at, and when."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres.changes import Changes, Plan


def made(interval_s: float = 15.0, took_s: float = 0.03) -> Changes:
    """Looked at whole at 100 s, so that counts are wanted."""
    changes = Changes(interval_s)
    changes.available = True
    for at in (0.0, 100.0):
        changes.looked_at(range(4), at)
        changes.looked_at_all(at, took_s)
    return changes


def counts(**changed: int) -> dict[int, int]:
    return {**dict.fromkeys(range(4), 7), **{int(key[1:]): count for key, count in changed.items()}}


def test_counts_are_asked_for_once_looking_is_dear() -> None:
    """What is dear depends on the interval: counts come within ten seconds, so a short one pays more for being exact."""
    changes = Changes(15.0)
    assert (changes.counts_wanted, changes.every_s, changes.together(256)) == (False, 15.0, 64)
    changes.looked_at_all(0.0, 0.4)
    assert (changes.counts_wanted, changes.together(256)) == (False, 256), "the first one is planned as well"
    changes.looked_at_all(0.0, 0.001)
    changes.looked_at_all(0.0, 0.7)
    assert (changes.counts_wanted, changes.together(256)) == (False, 64), "once may be chance"
    changes.looked_at_all(0.0, 0.7)
    assert not changes.counts_wanted, "there are none"
    changes.available = True
    assert (changes.counts_wanted, changes.every_s) == (True, 5.0)
    assert made().counts_wanted
    assert not made(interval_s=14.0).counts_wanted
    assert made(interval_s=14.0, took_s=0.2).counts_wanted


def test_only_partitions_that_were_written_to_are_looked_at() -> None:
    """Each once for a change, and once in an interval at the most, however often it is asked."""
    changes = made()
    assert changes.to_look_at(counts(), 115.0) == [0, 1, 2, 3], "how much was written before is not known"
    changes.looked_at(range(4), 115.0)
    assert changes.to_look_at(counts(), 120.0) == []
    assert changes.to_look_at(counts(_2=8), 125.0) == [], "it was looked at ten seconds ago"
    assert changes.to_look_at(counts(_2=8), 130.0) == [2]
    assert changes.to_look_at(counts(_2=8), 135.0) == [2], "it was not looked at, for some fault"
    changes.looked_at([2], 135.0)
    assert changes.to_look_at(counts(_2=8), 150.0) == []
    assert changes.to_look_at(counts(_2=8, _1=0), 151.0) == [1], "counts that were reset are another number"


def test_everything_is_looked_at_now_and_then() -> None:
    """Counts may be late, off, or lost. Dear looks are rarer; never rarer than once an hour."""
    changes = made(took_s=0.03)
    changes.to_look_at(counts(), 101.0)
    changes.looked_at(range(4), 101.0)
    assert changes.to_look_at(counts(), 159.0) == []
    assert changes.to_look_at(counts(), 161.0) == [0, 1, 2, 3]
    slow = made(took_s=60.0)
    slow.to_look_at(counts(), 101.0)
    slow.looked_at(range(4), 101.0)
    assert slow.to_look_at(counts(), 3_699.0) == []
    assert slow.to_look_at(counts(), 3_701.0) == [0, 1, 2, 3]


def test_another_server_counts_anew() -> None:
    changes = made()
    changes.to_look_at(counts(), 115.0)
    changes.looked_at(range(4), 115.0)
    changes.forget()
    assert changes.to_look_at(counts(), 116.0) == [0, 1, 2, 3]


def test_counts_before_any_look_are_no_reason_to_leave_anything_out() -> None:
    changes = Changes(15.0)
    assert changes.to_look_at(counts(), 1.0) == [0, 1, 2, 3]


@pytest.mark.parametrize(("keys", "expected"), [(range(5), [range(2), range(2, 4), range(4, 5)]), (range(0), [()])])
def test_partitions_are_put_together_to_questions(keys: range, expected: list[object]) -> None:
    assert Plan(keys, None).pieces(keys, 2) == expected
