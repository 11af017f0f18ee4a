"""The gap tracker against a model of transactions: each committed row once, and a watermark that always moves on."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from typing_extensions import override

from ffcompletion.backends.postgres.gaps import GapTracker


class Transaction:
    """What one writer has done and not yet committed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[int] = []
        self.locked = False


class Transactions(RuleBasedStateMachine):
    """A server with a sequence, locks and visibility; a reader that sees it through a ``GapTracker``."""

    transactions: Bundle[Transaction] = Bundle("transactions")
    prepared: Bundle[Transaction] = Bundle("prepared")

    def __init__(self) -> None:
        super().__init__()
        self.sequence = 0
        self.names = 0
        self.visible: set[int] = set()
        self.owners: set[str] = set()
        self.announced: list[int] = []
        self.delivered: list[int] = []
        self.missed_before_start: set[int] = set()
        self.now = 0.0

    @initialize(committed=st.integers(0, 5), under_way=st.integers(0, 2))
    def start(self, committed: int, under_way: int) -> None:
        """Some rows are there, some writers are at work; then the reader begins: LISTEN, start, owners, look back."""
        self.early = [self._begun() for _ in range(under_way)]
        for transaction in self.early:
            self._insert(transaction)
        for _ in range(committed):
            self.sequence += 1
            self.visible.add(self.sequence)
        start = max(self.visible, default=0)
        self.tracker = GapTracker(start)
        self.before = set(self.visible)
        if self.owners:
            holes = [i for i in range(1, start) if i not in self.visible]
            self.tracker.assume([(i, i) for i in holes], 0.0)

    def _begun(self) -> Transaction:
        self.names += 1
        return Transaction(f"{self.names}/1")

    def _insert(self, transaction: Transaction) -> None:
        # The lock first, then the id: the order in which the server does it.
        self.owners.add(transaction.name)
        transaction.locked = True
        self.sequence += 1
        transaction.rows.append(self.sequence)

    def _end(self, transaction: Transaction, *, commit: bool, notify: bool) -> None:
        # Visible first, then the locks are let go.
        if commit:
            self.visible |= set(transaction.rows)
            if notify:
                self.announced += transaction.rows
        self.owners.discard(transaction.name)

    @rule(target=transactions)
    def begin(self) -> Transaction:
        return self._begun()

    @precondition(lambda self: self.early)
    @rule(target=transactions)
    def adopt(self) -> Transaction:
        """One that was under way before the reader began."""
        return self.early.pop()

    @rule(transaction=transactions, rows=st.integers(1, 3))
    def insert(self, transaction: Transaction, rows: int) -> None:
        for _ in range(rows):
            self._insert(transaction)

    @rule(transaction=transactions)
    def savepoint_rolled_back(self, transaction: Transaction) -> None:
        """The row's id is gone for good, and so is the lock, if nothing else holds it."""
        self._insert(transaction)
        transaction.rows.pop()
        if not transaction.rows:
            self.owners.discard(transaction.name)

    @rule(transaction=consumes(transactions), commit=st.booleans(), notify=st.booleans())
    def end(self, transaction: Transaction, commit: bool, notify: bool) -> None:
        self._end(transaction, commit=commit, notify=notify)

    @rule(transaction=consumes(transactions), target=prepared)
    def prepare(self, transaction: Transaction) -> Transaction:
        """The lock changes hands and name."""
        if transaction.name in self.owners:
            self.owners.discard(transaction.name)
            transaction.name = f"-1/{transaction.name}"
            self.owners.add(transaction.name)
        return transaction

    @rule(transaction=consumes(prepared), commit=st.booleans())
    def end_prepared(self, transaction: Transaction, commit: bool) -> None:
        self._end(transaction, commit=commit, notify=False)

    @rule()
    def crash(self) -> None:
        """The server restarts: names begin anew; the reader is told to forget them."""
        self.tracker.forget_owners()

    def _admit(self, ids: list[int]) -> None:
        self.now += 1
        fresh = self.tracker.admit(ids, self.now)
        self.delivered += [ids[index] for index in fresh]

    @rule(reread=st.integers(0, 4))
    def read(self, reread: int) -> None:
        """An ordinary read, with what was announced."""
        announced, self.announced = self.announced, []
        after = max(self.tracker.watermark, self.tracker.high - reread)
        self._admit(sorted(i for i in self.visible if i > after))
        late = self.tracker.may_be_late(announced)
        self._admit([i for i in late if i in self.visible])

    @rule()
    def settle(self) -> None:
        """Ask for the owners; look once more at what nobody owns."""
        self.tracker.observe(self.owners)
        self._look_at_ripe()

    def _look_at_ripe(self) -> None:
        spans = self.tracker.resolvable
        for low, high in spans:
            self._admit(sorted(i for i in self.visible if low <= i <= high))
        self.tracker.retire(spans)

    @invariant()
    def nothing_twice(self) -> None:
        assert len(self.delivered) == len(set(self.delivered))
        assert not set(self.delivered) & self.before

    @invariant()
    def the_watermark_never_passes_a_row_to_come(self) -> None:
        under_watermark = {i for i in self.visible - self.before if i <= self.tracker.watermark}
        assert under_watermark <= set(self.delivered)

    @override
    def teardown(self) -> None:
        """Once all owners have ended and the reader has looked, every committed row is delivered and nothing held."""
        if not hasattr(self, "tracker"):
            return
        self.owners.clear()
        self.read(0)
        for _ in range(3):
            self.tracker.observe(self.owners)
            self._look_at_ripe()
        assert set(self.delivered) == self.visible - self.before
        assert not self.tracker.gaps
        assert self.tracker.watermark == self.tracker.high


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_dense_traffic_takes_the_short_way() -> None:
    """New and without holes: every index, the watermark at the end."""
    tracker = GapTracker(10)
    assert tracker.admit([11, 12, 13], 0.0) == [0, 1, 2]
    assert (tracker.high, tracker.watermark, tracker.held) == (13, 13, 0)
    assert tracker.admit([11, 12, 13], 0.0) == []


def test_a_prepared_continuation_is_waited_for() -> None:
    """The candidate is gone and a prepared transaction is there: it is taken for the same one, and nothing else is."""
    tracker = GapTracker(0)
    tracker.admit([2], 0.0)
    tracker.observe({"3/7", "-1/900"})
    tracker.observe({"3/7", "-1/900", "-1/901"})
    assert tracker.gaps[0].owners == frozenset({"3/7", "-1/900"})
    tracker.observe({"-1/900", "-1/901"})
    assert tracker.gaps[0].owners == frozenset({"-1/900", "-1/901"})
    tracker.observe({"-1/902"})
    assert tracker.resolvable == [(1, 1)]


def test_traffic_cannot_hold_a_gap() -> None:
    """Writers that came later do not matter."""
    tracker = GapTracker(0)
    tracker.admit([2], 0.0)
    tracker.observe({"1/1"})
    for number in range(2, 100):
        tracker.observe({f"{number}/1"})
    assert tracker.resolvable == [(1, 1)]
    tracker.retire(tracker.resolvable)
    assert tracker.watermark == 2


def test_many_that_are_rolled_back_beside_one_that_is_open() -> None:
    """They are kept together, however many; each is one of its own when its row comes, and when its owner has ended."""
    tracker = GapTracker(0)
    count = 20_000
    for start in range(0, count, 500):
        tracker.admit(range(start * 2 + 2, (start + 500) * 2 + 2, 2), 1.0 + start)
        tracker.observe({"long/1", f"{start}/1"})
    tracker.observe({"long/1"})
    assert (tracker.held, tracker.opened, tracker.watermark) == (count, count, 0)
    assert len(tracker.gaps) <= 20
    assert {gap.owners for gap in tracker.gaps} == {frozenset({"long/1"})}
    assert tracker.gaps[0].since == 1.0
    assert tracker.spans() == [(number, number) for number in range(1, 2 * count, 2)]
    assert tracker.admit([1, 2, 20_001, 39_999], 2.0) == [0, 2, 3]
    assert (tracker.held, tracker.watermark) == (count - 3, 2)
    copied = tracker.copy()
    tracker.observe({"later/1"})
    decided: list[tuple[int, int]] = []
    while spans := tracker.resolvable:
        assert len(spans) <= 4_096
        assert tracker.retire([(spans[0][0], spans[-1][1])]) == spans
        decided += spans
    assert decided == copied.spans()
    assert (tracker.held, tracker.watermark) == (0, 2 * count)
    copied.give_up(decided[:-1])
    assert copied.watermark == decided[-1][0] - 1
    assert copied.admit([decided[-1][0]], 3.0) == [0]
    assert not copied.gaps


def test_a_gap_is_read_while_some_of_its_owners_go_on() -> None:
    """Once those that have ended had the time to be announced; then it stays what it is, until the next one has ended."""
    tracker = GapTracker(0)
    tracker.admit([5, 20], 0.0)
    for _ in range(3):
        tracker.observe({"1/1", "2/1", "3/1"})
    tracker.observe({"1/1", "2/1"})
    assert tracker.resolvable == [(1, 4), (6, 19)]
    # As far as one read has come.
    tracker.admit([2, 8], 1.0)
    assert tracker.retire([(1, 8)]) == []
    assert tracker.resolvable == [(9, 19)]
    # Another one ends meanwhile: it is read from its beginning when this is done.
    tracker.observe({"1/1"})
    assert tracker.retire([(9, 19)]) == []
    assert (tracker.resolvable, tracker.held) == ([], 16)
    tracker.observe({"1/1"})
    assert tracker.resolvable == [(1, 1), (3, 4), (6, 7), (9, 19)]
    tracker.retire(tracker.resolvable)
    assert tracker.resolvable == []
    tracker.observe(())
    assert tracker.retire(tracker.resolvable) == [(1, 1), (3, 4), (6, 7), (9, 19)]
    assert tracker.watermark == 20


def test_a_gap_is_read_now_and_then_whoever_goes_on() -> None:
    """A replica does not tell who has ended: less and less often, down to twice a minute. Gaps that are being read are not joined."""
    tracker = GapTracker(0)
    tracker.admit([3], 0.0)
    read: list[int] = []
    for number in range(1, 70):
        if number == 2:
            tracker.admit([6], 0.0)
        tracker.observe({"before 7"})
        while spans := tracker.resolvable:
            read.append(number)
            tracker.retire(spans[:1])
    assert read == [number for number in (4, 6, 8, 11, 14, 18, 23, 29, 37, 47, 59) for _ in range(2)]
    for _ in range(70, 129):
        tracker.observe({"before 7"})
    tracker.admit([8], 0.0)
    for _ in range(3):
        tracker.observe({"before 7"})
    assert tracker.resolvable == [(1, 2), (4, 5)]
    tracker.observe({"before 7"})
    assert tracker.resolvable == [(1, 2), (4, 5), (7, 7)]
    tracker.retire([(1, 7)])
    assert (tracker.resolvable, len(tracker.gaps)) == ([], 2)
    tracker.observe({"before 7"})
    assert len(tracker.gaps) == 1


def test_a_gap_that_is_passed_over_stays_what_it_is() -> None:
    """One that is read already, below another that is to be."""
    tracker = GapTracker(0)
    tracker.admit([3], 0.0)
    for _ in range(4):
        tracker.observe({"1/1"})
    tracker.retire(tracker.resolvable)
    tracker.admit([6], 0.0)
    for _ in range(4):
        tracker.observe({"1/1", "2/1"})
    assert tracker.resolvable == [(1, 2), (4, 5)]
    tracker.retire([(1, 3)])
    assert tracker.resolvable == [(4, 5)]
    tracker.retire([(4, 5)])
    assert (tracker.resolvable, tracker.spans()) == ([], [(1, 2), (4, 5)])


def test_what_waits_for_another_row_is_read_when_all_have_ended() -> None:
    """There is a row already that bears the id: reading early would take it for the one that is to come."""
    tracker = GapTracker(0)
    tracker.admit([3], 0.0)
    tracker.hold(4, 0.0)
    for _ in range(8):
        tracker.observe({"1/1"})
    assert tracker.resolvable == []
    tracker.observe(())
    assert tracker.resolvable == [(1, 2), (4, 4)]
    tracker.forget_owners()
    assert tracker.resolvable == []


def test_an_id_that_is_held_is_a_gap_up_to_it() -> None:
    """Whatever lies in between with it; one that is known already stays what it is."""
    tracker = GapTracker(10)
    tracker.hold(10, 0.0)
    assert (tracker.high, tracker.gaps) == (10, [])
    tracker.hold(12, 0.0)
    assert (tracker.high, tracker.watermark, tracker.spans()) == (12, 10, [(11, 12)])
    tracker.observe(["1/1"])
    tracker.hold(14, 1.0)
    # Who may own the later ones has not been asked yet.
    assert (tracker.spans(), tracker.gaps[0].owners) == ([(11, 14)], None)
    assert tracker.admit([12, 12], 2.0) == [0, 1]
    assert tracker.spans() == [(11, 11), (13, 14)]
    tracker.hold(16, 3.0)
    assert tracker.spans() == [(11, 11), (13, 16)]


def test_what_ended_ahead_of_a_follower_leaves_it_no_gap() -> None:
    """It admits what another one has, later, and is told what was given up in the same order."""
    leader, follower = GapTracker(10), GapTracker(10)
    leader.hold(11, 0.0)
    leader.observe([])
    follower.give_up(leader.retire(leader.resolvable))
    for each in (leader, follower):
        assert each.admit([12], 1.0) == [0]
        assert (each.high, each.watermark) == (12, 12)


def test_a_gap_across_the_end_of_another_history_is_kept_up_to_there() -> None:
    """The lower part may have been committed before the server was replaced."""
    tracker = GapTracker(0)
    tracker.admit([6], 0.0)
    tracker.rewind(3)
    assert (tracker.high, tracker.watermark, tracker.spans()) == (3, 0, [(1, 3)])
    tracker.observe([])
    assert tracker.admit([2], 1.0) == [0]
    tracker.retire(tracker.resolvable)
    assert tracker.watermark == 3
    tracker.rewind(2)
    # One whose id was given up, and who had it all the same.
    assert tracker.admit([1, 2], 2.0) == [0]
    tracker.rewind(7)
    assert (tracker.start, tracker.high, tracker.watermark) == (0, 2, 2)


def test_gaps_below_the_end_of_another_history_are_kept_with_their_owners() -> None:
    tracker = GapTracker(0)
    tracker.admit([2], 0.0)
    tracker.observe(["1/1"])
    tracker.admit([5, 6, 8], 0.0)
    tracker.rewind(4)
    assert [(list(gap.spans), gap.owners) for gap in tracker.gaps] == [([(1, 1)], {"1/1"}), ([(3, 4)], None)]
    tracker.rewind(2)
    assert (tracker.spans(), tracker.high, tracker.watermark) == ([(1, 1)], 2, 0)


def test_ids_that_nobody_looked_at_are_looked_for_once_when_they_are_announced() -> None:
    """Below the floor an announcement is believed, of so many; above it what was held as a gap alone is new."""
    tracker = GapTracker(5_000)
    tracker.assume([(4_500, 4_502)], 0.0, floor=4_000)
    assert (tracker.start, tracker.floor, tracker.watermark) == (5_000, 4_000, 4_499)
    assert tracker.may_be_late([-1, 0, 40, 4_200, 4_501, 5_001]) == [40, 4_501]
    assert tracker.admit([40, 4_501, 5_001], 1.0) == [0, 1, 2]
    assert (tracker.may_be_late([40, 4_501]), tracker.admit([40, 4_501], 2.0)) == ([], [])
    assert tracker.may_be_late(range(1, 4_000)) == [n for n in range(1, 4_000) if n != 40]
    tracker.rewind(39)
    assert tracker.may_be_late([40]) == []
    tracker.admit([40], 3.0)
    assert tracker.watermark == 40


def test_beneath_the_lowest_row_there_is_no_position_but_the_beginning() -> None:
    """What may be missing there is held like any other; a stream from now on stands where trimming would be noticed."""
    tracker = GapTracker(300_000)
    tracker.assume([(200_001, 299_990), (299_995, 299_996)], 0.0, 200_000, lowest=True)
    assert (tracker.watermark, tracker.now, tracker.copy().watermark, tracker.held) == (0, 200_000, 0, 99_992)
    assert (tracker.floor, tracker.spans()) == (0, [(1, 299_990), (299_995, 299_996)])
    tracker.admit([200_002], 1.0)
    assert tracker.watermark == 0
    tracker.observe([])
    tracker.retire([(1, 299_990)])
    assert (tracker.watermark, tracker.now, tracker.held) == (299_994, 299_994, 2)
    other = GapTracker(300_000)
    other.assume([(200_001, 299_990)], 0.0, 200_000)
    assert (other.watermark, other.now) == (200_000, 200_000)


def test_what_is_found_missing_beneath_the_floor_is_a_gap_like_any_other() -> None:
    """In any order, beside what is one already and without what was handed out meanwhile; it follows in the same steps."""
    tracker = GapTracker(5_000)
    tracker.assume([(4_500, 4_502)], 0.0, 4_000, ["1/1"])
    assert (tracker.owned, tracker.watermark, tracker.settled_after(0)) == (4_000, 4_499, 4_499)
    assert (tracker.settled_after(4_501), tracker.settled_after(4_600), tracker.settled_after(6_000)) == (
        4_501,
        5_000,
        6_000,
    )
    assert tracker.may_be_late([40]) == [40]
    assert tracker.admit([40], 1.0) == [0]
    follower = tracker.copy()
    for spans in ([(30, 60)], [(1_000, 1_009)], [(50, 70), (900, 900)], [(40, 40)]):
        tracker.miss(spans, 2.0)
        follower.miss(spans, 2.0)
    wanted = [(30, 39), (41, 70), (900, 900), (1_000, 1_009)]
    assert tracker.spans() == follower.spans() == [*wanted, (4_500, 4_502)]
    assert (tracker.watermark, tracker.now, tracker.gaps[0].since) == (29, 4_000, 2.0)
    # One that is announced and is a gap is not taken on the announcement's word.
    assert tracker.may_be_late([45]) == [45]
    assert tracker.admit([45, 1_000], 3.0) == [0, 1]
    assert (tracker.may_be_late([45]), tracker.copy().may_be_late([45])) == ([], [])
    tracker.observe(["1/1", "2/1"])
    tracker.observe(["2/1"])
    assert (tracker.owned, tracker.floor) == (0, 4_000)
    tracker.observe([])
    decided = tracker.retire(tracker.resolvable)
    assert decided == [(30, 39), (41, 44), (46, 70), (900, 900), (1_001, 1_009), (4_500, 4_502)]
    follower.admit([45, 1_000], 3.0)
    follower.give_up([(30, 39), (41, 44), (46, 60)])
    assert follower.spans()[:2] == [(61, 70), (900, 900)]
    follower.give_up(decided[2:])
    assert (tracker.watermark, follower.watermark) == (5_000, 5_000)


def test_a_gap_that_awaits_a_row_does_so_beside_what_else_is_missing() -> None:
    tracker = GapTracker(100)
    tracker.assume([(90, 91)], 0.0, 50, ["1/1"])
    tracker.gaps[0].awaits = True
    tracker.miss([(40, 41)], 1.0)
    tracker.miss([(41, 95)], 1.0)
    assert [(gap.awaits, list(gap.spans)) for gap in tracker.gaps] == [(True, [(40, 95)])]


def test_an_announcement_is_late_where_its_row_was_missed() -> None:
    """And nothing where it was seen, or is still to come."""
    tracker = GapTracker(10)
    assert tracker.may_be_late([]) == tracker.may_be_late([3, 10]) == []
    tracker.admit([13], 0.0)
    assert tracker.may_be_late([3, 12, 13, 14]) == [12]


def test_a_server_that_was_restarted_is_asked_for_owners_anew() -> None:
    """Their names mean nothing any more: nothing is decided by those of before."""
    tracker = GapTracker(0)
    tracker.admit([2], 0.0)
    tracker.observe([])
    spans = tracker.resolvable
    tracker.forget_owners()
    assert (tracker.resolvable, tracker.retire(spans), tracker.watermark) == ([], [], 0)
    tracker.observe(["9/1"])
    tracker.observe([])
    assert tracker.retire(tracker.resolvable) == [(1, 1)]
