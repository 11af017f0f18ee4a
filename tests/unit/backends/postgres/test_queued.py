"""What waits for its records: in order, whole, and held in memory up to a bound."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ffcompletion.backends.postgres import queued
from ffcompletion.backends.postgres.queued import Item, Queued
from ffcompletion.backends.postgres.rows import Decoded, Row, decode

HELD = 10


def row(event_id: int) -> Row:
    outcome = None if event_id % 5 == 0 else "success"
    return event_id, f"{{fp:7}}:00000000-0000-0000-0000-{event_id:012}", outcome, 1, None, "a"


def read(ids: list[int]) -> Decoded:
    return decode([row(event_id) for event_id in ids], 0)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_HELD", HELD)
    monkeypatch.setattr(queued, "_TOGETHER", 4)


class Waiting(RuleBasedStateMachine):
    """Beside a list of what was given to it."""

    def __init__(self) -> None:
        super().__init__()
        self.queued = Queued()
        self.model: list[int | tuple[int, int]] = []
        self.newest = 0

    @rule(steps=st.lists(st.integers(0, 2), min_size=2, max_size=6))
    def rows_are_read(self, steps: list[int]) -> None:
        ids: list[int] = []
        for step in steps:
            # Two rows may bear one id.
            self.newest += step or (not ids)
            ids.append(self.newest)
        self.queued.add(ids, read(ids), self.newest)
        self.model += ids

    @rule(size=st.integers(1, 3))
    def gaps_are_given_up(self, size: int) -> None:
        gap = (self.newest + 1, self.newest + size)
        self.newest += size
        self.queued.add_gaps([gap])
        self.model.append(gap)

    @precondition(lambda self: self.queued and self.queued.head.gaps)
    @rule()
    def the_gap_is_over(self) -> None:
        assert list(self.queued.pop_gaps()) == [self.model.pop(0)]

    @precondition(lambda self: self.queued and self.queued.head.decoded is None)
    @rule()
    def it_is_read_again(self) -> None:
        assert self.queued.together() == []
        self.queued.read_again(read(list(self.queued.head.ids)))
        assert type(self.queued.head.ids) is list

    @precondition(lambda self: self.queued and not self.queued.head.gaps and self.queued.head.decoded is not None)
    @rule(dice=st.randoms(use_true_random=False))
    def some_are_decided(self, dice: random.Random) -> None:
        together = self.queued.together()
        assert together[0][0] == self.queued.head
        for number, (item, decoded) in enumerate(together):
            assert number == 0 or sum(len(each.ids) for each, _ in together[: number + 1]) <= 4
            rest, ids, done = decoded, list[int](), list[Row]()
            while True:
                count = dice.randint(1, len(rest.rows)) if rest.rows and dice.random() < 0.7 else len(rest.rows)
                some, handed, rest = self.queued.pop_rows(rest, count)
                ids += some
                done += handed.rows
                assert len(handed.rows) == len(handed.payloads) == count
                # No position runs ahead of what was handed out, nor stays behind what makes no completion.
                assert Counter(each for each in ids if each % 5) <= Counter(each[0] for each in done)
                if not rest.rows:
                    break
                assert rest.rows[0][0] not in ids
                assert self.queued.head.ids[0] == rest.rows[0][0]
            assert rest.rows == ()
            assert ids == self.model[: len(ids)] == list(item.ids)
            assert [each[0] for each in done] == [each for each in ids if each % 5]
            del self.model[: len(ids)]

    @precondition(lambda self: self.queued.waiting > HELD)
    @rule(back=st.integers(0, 8))
    def history_is_replaced(self, back: int) -> None:
        high = self.newest = max(0, self.newest - back)
        self.queued.rewind(high)
        self.model = [each for each in self.model if (each if isinstance(each, int) else each[1]) <= high]

    @precondition(lambda self: self.queued.waiting > 2 * HELD)
    @rule()
    def nothing_waits(self) -> None:
        self.queued.clear()
        self.model.clear()

    @invariant()
    def it_is_in_order_and_counted(self) -> None:
        found: list[int | tuple[int, int]] = []
        held = 0
        for item in self.queued:
            found += [*item.ids, *item.gaps]
            held += 0 if item.decoded is None else len(item.ids)
            if item.decoded is not None:
                assert [each[0] for each in item.decoded.rows] == [each for each in item.ids if each % 5]
        assert found == self.model
        assert self.queued.waiting == sum(isinstance(each, int) for each in self.model)
        # One read more than there is room for, and the head, which may have been read again.
        assert held <= HELD + 6
        assert held == self.queued._held
        assert bool(self.queued) == bool(self.model)


TestWaiting = Waiting.TestCase


def test_what_is_not_held_takes_next_to_nothing() -> None:
    """A transaction's ids lie together; others take eight bytes each."""
    waiting = Queued()
    waiting.add(list(range(1, 11)), read(list(range(1, 11))), 3)
    for ids in ([11, 12, 13], [14, 16, 17], [18, 18, 20]):
        waiting.add(ids, read(ids), 3)
    _, dense, sparse, twice = waiting
    assert dense == Item(range(11, 14), None, 3)
    assert sparse == Item(array("q", [14, 16, 17]), None, 3)
    assert twice == Item(array("q", [18, 18, 20]), None, 3)
