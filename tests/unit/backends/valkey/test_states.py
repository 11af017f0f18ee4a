"""One Valkey stream's states: what is announced to it is delivered, denied, still owed, or lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ffcompletion.backends.valkey.states import Denied, Standing, StreamState

COUNTS = st.integers(0, 5)
DENIED = st.builds(Denied, COUNTS, COUNTS)


class Standings(RuleBasedStateMachine):
    """Announced is the sum of all that can have become of it, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing()
        self.announced = 0
        self.delivered = 0

    @precondition(lambda self: self.standing.takes)
    @rule(count=COUNTS, denied=DENIED)
    def fits(self, count: int, denied: Denied) -> None:
        self.standing.took(denied)
        self.delivered += count
        self.announced += count + denied.filtered + denied.undecided

    @precondition(lambda self: self.standing.takes)
    @rule(count=COUNTS, denied=DENIED, recoverable=st.booleans())
    def does_not_fit(self, count: int, denied: Denied, recoverable: bool) -> None:
        before = self.standing.overflows
        self.standing.overflowed(recoverable=recoverable)
        self.standing.overflowed(recoverable=recoverable)
        assert self.standing.overflows <= before + 1
        self.missed(count, denied)

    @rule(count=COUNTS, denied=DENIED)
    def missed(self, count: int, denied: Denied) -> None:
        self.standing.missed(count, denied)
        self.announced += count + denied.filtered + denied.undecided

    @rule()
    def joining(self) -> None:
        was = self.standing.state
        self.standing.joining()
        assert self.standing.state is (StreamState.JOINING if was is StreamState.OVERFLOWED else was)

    @rule()
    def left(self) -> None:
        was = self.standing.state
        self.standing.left()
        assert self.standing.state is (StreamState.OVERFLOWED if was is StreamState.JOINING else was)

    @precondition(lambda self: self.standing.behind)
    @rule(all_of_it=st.booleans())
    def recovered(self, all_of_it: bool) -> None:
        """The index brings exactly what was missed, or a part of it."""
        owed, denied = self.standing.missed_count, self.standing._missed_denied
        live = all_of_it and self.standing.state is StreamState.JOINING
        count = owed if live else owed // 2
        self.standing.recovered(count, denied if live else Denied(), all_of_it=all_of_it)
        self.delivered += count
        assert not live or self.standing.state is StreamState.LIVE
        assert live or self.standing.state is StreamState.OVERFLOWED

    @rule()
    def unrecoverable(self) -> None:
        self.standing.unrecoverable()
        assert not self.standing.behind
        assert self.standing.missed_count == 0

    @invariant()
    def the_sum_holds(self) -> None:
        told = self.standing.denied.plus(self.standing._missed_denied)
        owed = self.standing.missed_count + self.standing.lost
        assert self.announced == self.delivered + owed + told.filtered + told.undecided
        assert not (self.standing.takes and self.standing.state is StreamState.OVERFLOWED)


TestStandings = Standings.TestCase


def test_closed_is_for_good() -> None:
    """Nothing opens it again."""
    standing = Standing()
    standing.closed()
    for happen in (standing.joining, standing.left, standing.unrecoverable):
        happen()
    standing.overflowed(recoverable=True)
    assert standing.state is StreamState.CLOSED
    assert not standing.takes
    assert not standing.behind


def test_less_is_never_below_nothing() -> None:
    assert Denied(1, 5).less(Denied(3, 2)) == Denied(0, 3)


def test_an_overflowed_stream_comes_back() -> None:
    """What it missed is brought in pieces; with the last of them it is live, and owes nothing."""
    standing = Standing()
    standing.overflowed(recoverable=True)
    standing.missed(5, Denied(2, 1))
    standing.recovered(3, Denied(1, 0), all_of_it=False)
    assert (standing.state, standing.missed_count) == (StreamState.OVERFLOWED, 2)
    standing.joining()
    standing.recovered(2, Denied(1, 1), all_of_it=True)
    assert (standing.state, standing.missed_count, standing.lost) == (StreamState.LIVE, 0, 0)
    assert standing.denied == Denied(2, 1)


def test_joining_may_come_to_nothing() -> None:
    """Then the index has still what it had; and once that cannot be read any more, it is lost."""
    standing = Standing()
    standing.overflowed(recoverable=True)
    standing.missed(5, Denied(2, 1))
    standing.joining()
    standing.left()
    assert (standing.state, standing.missed_count) == (StreamState.OVERFLOWED, 5)
    standing.unrecoverable()
    assert (standing.state, standing.lost, standing.denied) == (StreamState.LIVE, 5, Denied(2, 1))
