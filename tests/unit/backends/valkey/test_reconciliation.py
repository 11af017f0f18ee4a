"""The reconciler against a model: whatever is announced, late, lost, replayed or half read, the index's news comes out."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ffcompletion.backends.valkey import reconciliation
from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.reconciliation import (
    SLACK_MS,
    Announced,
    Candidate,
    Entry,
    Pace,
    Reconciliation,
    ServerTime,
)
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload

IDS = [ExecutionId(f"{{fp:{n}}}:550e8400-e29b-41d4-a716-44665544000{n}") for n in range(3)]
OTHER = ExecutionId("{fp:9}:550e8400-e29b-41d4-a716-446655440009")
OVERLAP = 5_000
START = 1_700_000_000_000


class Reconciling(RuleBasedStateMachine):
    """A server with an index, announcements on their way, and passes that may break off."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = START
        self.reconciler = Reconciliation(overlap_ms=OVERLAP, limit=10_000)
        self.reconciler.begin(ServerTime(self.clock, self.now, self.now))
        self.reconciler.end()
        self.index: dict[ExecutionId, int] = {}
        self.replays: dict[ExecutionId, int] = dict.fromkeys(IDS, 0)
        self.under_way: list[tuple[ExecutionId, int]] = []
        self.delivered: list[tuple[ExecutionId, int]] = []
        self.settled: dict[ExecutionId, int] = {}

    @property
    def now(self) -> float:
        return self.clock / 1000

    @rule(ms=st.sampled_from([10, 300, 1_400, 4_700, 20_000]))
    def time_passes(self, ms: int) -> None:
        # Nothing is under way for longer than a pass waits for it.
        while self.under_way and self.under_way[0][1] + 1_500 < self.clock + ms:
            self.arrives(0)
        self.clock += ms

    @rule(which=st.sampled_from(IDS), fate=st.sampled_from(["arrives", "is late", "is lost"]))
    def finishes(self, which: ExecutionId, fate: str) -> None:
        if which in self.index:
            return
        self.clock += 10
        self.index[which] = self.clock
        if fate != "is lost":
            self.under_way.append((which, self.clock))
        if fate == "arrives":
            self.arrives(len(self.under_way) - 1)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 4))
    def arrives(self, which: int) -> None:
        execution_id, score = self.under_way.pop(which % len(self.under_way))
        payload = CompletionPayload(execution_id, "success")
        if self.reconciler.announced([payload], self.now):
            self.delivered.append((execution_id, score))

    @rule(which=st.sampled_from(IDS))
    def is_replayed(self, which: ExecutionId) -> None:
        # With its announcement still under way, an observer could not say which completion it is.
        if which in self.index and not any(id_ == which for id_, _ in self.under_way):
            del self.index[which]
            self.replays[which] += 1
            self.clock += 10

    @rule(page=st.integers(1, 3), pages=st.integers(0, 4), meanwhile=st.sampled_from(["", "arrives", "finishes"]))
    def a_pass(self, page: int, pages: int, meanwhile: str) -> None:
        """Pages of the index by score; it may break off after some, and the world goes on while it reads."""
        self.reconciler.begin(ServerTime(self.clock, self.now, self.now))
        since = self.reconciler.since_ms
        entries: list[Entry] = sorted(
            ((id_, score) for id_, score in self.index.items() if score >= since), key=lambda entry: entry[1]
        )
        seen = dict(self.index)
        if meanwhile == "arrives" and self.under_way:
            self.arrives(0)
        if meanwhile == "finishes" and (unfinished := [id_ for id_ in IDS if id_ not in self.index]):
            self.finishes(unfinished[0], "arrives")
        for number in range(0, len(entries) + 1, page):
            if number // page >= pages:
                return
            part = entries[number : number + page]
            upto = part[-1][1] if number + page < len(entries) else 1 << 62
            found = [
                (ExecutionId(news.execution_id), news.score_ms)
                for news in self.reconciler.candidates(part, self.now)
                if not news.doubtful or self.replays[ExecutionId(news.execution_id)]
            ]
            self.reconciler.record(part, [id_ for id_, _ in found], upto, self.now)
            self.delivered += found
        self.reconciler.end()
        self.settled = seen

    @invariant()
    def what_a_pass_has_seen_is_delivered(self) -> None:
        assert set(self.settled.items()) <= set(self.delivered)

    @invariant()
    def nothing_is_repeated(self) -> None:
        assert len(self.delivered) == len(set(self.delivered))


TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(stateful_step_count=40, max_examples=300)


def _payload(execution_id: ExecutionId, at_ms: int = 0) -> CompletionPayload:
    return CompletionPayload(execution_id, "success", None, at_ms)


def test_memory_is_bounded_whatever_is_announced() -> None:
    """The oldest announcements are forgotten: they may be repeated, and cost nothing."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100)
    reconciler.begin(ServerTime(START, 0.0, 0.0))
    reconciler.end()
    for number in range(50):
        reconciler.announced([_payload(IDS[0])] * 10, number / 1000)
    assert reconciler.full
    assert sum(batch.count for batch in reconciler.recent) <= 200
    reconciler.begin(ServerTime(START + 100, 0.1, 0.1))
    reconciler.end()
    assert not reconciler.recent


def test_a_pass_that_waited_for_its_server_says_nothing_of_how_long_one_takes() -> None:
    """The next is not put off for that; what takes long each time is."""
    pace, now = Pace(0.0), 0.0
    taken: list[float] = []
    for seconds in (0.1, 0.2, 5.0, 0.1, 3.0, 4.0):
        pace.begin(now)
        assert pace.began_at == now
        now += seconds
        pace.end(now)
        taken.append(round(pace.takes_s, 3))
    assert taken == [0.0, 0.1, 0.2, 0.1, 0.1, 3.0]


def test_a_pass_that_failed_began_all_the_same() -> None:
    """So that its successor is not at once; and how long it took says nothing."""
    pace = Pace(0.0)
    for began, seconds in ((1.0, 0.5), (2.0, 0.5)):
        pace.begin(began)
        pace.end(began + seconds)
    pace.begin(10.0)
    assert (pace.began_at, pace.takes_s) == (10.0, 0.5)


def test_a_clock_that_went_back_is_followed() -> None:
    """What the server writes after its clock was set back has lower scores, and is found."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100)
    reconciler.begin(ServerTime(START, 0.0, 0.0))
    reconciler.end()
    reconciler.begin(ServerTime(START - 3_600_000 + 10_000, 10.0, 10.0))
    assert reconciler.stepped_back
    assert reconciler.since_ms == START - 3_600_000 - OVERLAP


def test_after_a_clock_went_back_what_lies_ahead_of_it_is_old() -> None:
    """But not what was written while a pass took long."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100)
    reconciler.begin(ServerTime(START + 3_600_000, 0.0, 0.0))
    reconciler.end()
    reconciler.begin(ServerTime(START + 10_000, 10.0, 10.0))
    entries = [(IDS[0], START + 1_800_000), (IDS[1], START + 12_000)]
    assert [found.execution_id for found in reconciler.candidates(entries, 12.0)] == [IDS[1]]


def test_an_answer_that_took_long_is_no_clock_that_went_back() -> None:
    """TIME was read ten seconds after it was asked for; what the next answer says is compared with that moment."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100)
    reconciler.begin(ServerTime(START + 10_000, 0.0, 10.0))
    reconciler.end()
    reconciler.begin(ServerTime(START + 15_000, 15.0, 15.0))
    assert not reconciler.stepped_back
    # What it would have written in those ten seconds, had it gone back by so much, is looked for all the same.
    assert reconciler.since_ms <= START + 10_000 - OVERLAP


def test_the_server_s_time_lies_between_two_estimates() -> None:
    """It was read at some moment between the asking and the answer."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100)
    reconciler.begin(ServerTime(START, 1.0, 1.5))
    assert (reconciler.server_ms(2.0), reconciler.server_ms_at_least(2.0)) == (START + 1_000, START + 500)


def test_a_backlog_owes_what_was_not_told_before_it_overflowed() -> None:
    """By execution and score; what is given is owed no more, also at the same millisecond."""
    backlog = Backlog(START, [Announced.of(START + 5, [_payload(IDS[0])])])
    entries = [(IDS[2], START + 9), (IDS[0], START + 4), (IDS[1], START + 9), (OTHER, START + 20)]
    assert backlog.pending(entries) == [(IDS[2], START + 9), (IDS[1], START + 9), (OTHER, START + 20)]
    backlog.delivered([(IDS[2], START + 9)], START + 9)
    assert backlog.since_ms == START + 9
    assert backlog.pending(entries) == [(IDS[1], START + 9), (OTHER, START + 20)]
    backlog.received([Announced.of(START + 21, [_payload(OTHER)])])
    assert backlog.pending(entries) == [(IDS[1], START + 9)]
    backlog.missed([_payload(IDS[0], START - 7)])
    assert backlog.since_ms == START - 7
    # Replayed, and finished again after it had been told.
    assert backlog.pending([(IDS[0], START + 400)]) == [(IDS[0], START + 400)]


def test_more_is_looked_into_where_little_is_found() -> None:
    """However little room a stream has, junk does not hold it up; where all is for it, no more is asked for than fits."""
    backlog, room, seen = Backlog(START, ()), 2, 0
    while seen < 1_000:
        piece = max(room, backlog.look_into)
        backlog.looked(piece, 0)
        seen += piece
    assert backlog.look_into == 1_024
    backlog.looked(backlog.look_into, 600)
    assert backlog.look_into == 0


def _begun(limit: int = 100) -> Reconciliation:
    """The first pass is over: the server's time is START at 0 s."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=limit)
    begun = [reconciler.begun]
    reconciler.begin(ServerTime(START, 0.0, 0.0))
    reconciler.end()
    assert [*begun, reconciler.begun] == [False, True]
    return reconciler


def test_an_announcement_explains_an_entry_that_is_not_younger() -> None:
    """A younger one is news, unless it was skipped; so is one that was not announced; and each is found once."""
    reconciler = _begun()
    reconciler.announced([_payload(IDS[0]), _payload(IDS[1])], 1.0)
    reconciler.begin(ServerTime(START + 2_000, 2.0, 2.0))
    entries = [(IDS[0], START + 1_000 + SLACK_MS), (IDS[1], START + 1_001 + SLACK_MS), (IDS[2], START + 900)]
    found = [Candidate(*entries[1], doubtful_if_skipped=True), Candidate(*entries[2])]
    assert reconciler.candidates(entries, 2.0) == found
    assert reconciler.candidates(entries, 2.0) == found, "they were not dealt with"
    reconciler.record(entries, [IDS[2]], START + 1_100, 2.0)
    reconciler.end()
    assert (reconciler.settled_ms, reconciler.since_ms, reconciler.recent) == (
        START + 2_000,
        START + 2_000 - OVERLAP,
        (),
    )
    reconciler.begin(ServerTime(START + 3_000, 3.0, 3.0))
    assert reconciler.candidates([*entries, (IDS[2], START + 901)], 3.0) == [Candidate(IDS[2], START + 901)]


@pytest.mark.parametrize("clocks_ms", [0, 2_000, OVERLAP])
@pytest.mark.parametrize("gained_ms", [0, 700])
def test_an_announcement_explains_no_more_than_clocks_do(clocks_ms: int, gained_ms: int) -> None:
    """It may be anybody's, of what has not ended: how long before the end it came decides, and clocks that differ."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100, clocks_ms=clocks_ms)
    reconciler.begin(ServerTime(START, 0.0, 0.0))
    reconciler.end()
    reconciler.announced([_payload(IDS[0])], 1.0)
    reconciler.begin(ServerTime(START + 10_000 + gained_ms, 10.0, 10.0))
    explained = START + 1_000 + SLACK_MS
    found = [
        reconciler.candidates([(IDS[0], explained + later)], 10.0)
        for later in (0, 1, gained_ms + clocks_ms, gained_ms + clocks_ms + 1, gained_ms + OVERLAP + 1)
    ]
    told = [[(it.doubtful, it.doubtful_if_skipped) for it in each] for each in found]
    within = gained_ms + clocks_ms > 0
    assert told == [
        [],
        [(within, True)],
        [(True, True)] if within else [],
        [(False, clocks_ms < OVERLAP)],
        [(False, False)],
    ]


@pytest.mark.parametrize(
    ("apart_ms", "most"), [((3, 3), 3), ((3, None), 2_000), ((3, 9_000), 2_000), ((40, 3), 40), ((None, 3), 2_000)]
)
def test_clocks_that_have_been_compared(apart_ms: tuple[int | None, int | None], most: int) -> None:
    """At the beginning of this pass and the one before: what is not known is as they may be, and no more is believed."""
    reconciler = Reconciliation(overlap_ms=OVERLAP, limit=100, clocks_ms=2_000)
    # A pass before, of which nothing counts.
    for at_s, apart in zip((0, 1, 10), (3, *apart_ms), strict=True):
        if at_s == 10:
            reconciler.announced([_payload(IDS[0])], 2.0)
        reconciler.begin(ServerTime(START + at_s * 1000, at_s, at_s, apart))
        if at_s < 10:
            reconciler.end()
    later = [START + 2_000 + SLACK_MS + by for by in (most, most + 1)]
    found = [reconciler.candidates([(IDS[0], score)], 10.0) for score in later]
    assert [[it.doubtful for it in each] for each in found] == [[True], [False]]


def test_an_announcement_that_comes_after_what_it_tells_of_was_found_is_passed_over_once() -> None:
    """Within two seconds; another one is of another completion."""
    for after_s, again in (1.9, []), (2.1, [_payload(IDS[0])]):
        reconciler = _begun()
        reconciler.begin(ServerTime(START + 1_000, 1.0, 1.0))
        reconciler.record([(IDS[0], START + 500)], [IDS[0]], START + 500, 1.0)
        reconciler.end()
        both = [_payload(IDS[0]), _payload(OTHER)]
        assert reconciler.announced(both, 1.0 + after_s) == [*again, both[1]]
        assert reconciler.announced(both, 1.0 + after_s) == both


def test_what_lies_ahead_of_a_clock_that_was_put_back_is_old() -> None:
    """As far as it was settled before; what is written by the clock that counts now is news, and so is what lies beyond."""
    reconciler = _begun()
    now_ms = START - 3_600_000
    reconciler.begin(ServerTime(now_ms, 10.0, 10.0))
    entries = [(IDS[0], now_ms + SLACK_MS), (IDS[1], START), (IDS[2], START + 1)]
    assert [each.execution_id for each in reconciler.candidates(entries, 10.0)] == [IDS[0], IDS[2]]


def test_how_far_ahead_a_time_may_lie() -> None:
    """Whatever clock was seen to go furthest; it is that of whoever writes, and nobody's word."""
    reconciler = _begun()
    assert reconciler.reach_ms(1.0) == START + 1_000 + OVERLAP + 1_000
    reconciler.saw(START + 60_000)
    assert reconciler.reach_ms(1.0) == START + 60_000 + OVERLAP + 1_000


def test_announcements_that_are_forgotten_during_a_pass_are_not_forgotten_again_at_its_end() -> None:
    reconciler = _begun(limit=1)
    reconciler.announced([_payload(IDS[0])], 0.5)
    reconciler.begin(ServerTime(START + 1_000, 1.0, 1.0))
    assert reconciler.candidates([(IDS[0], START + 500)], 1.0) == []
    for which in IDS[1:]:
        reconciler.announced([_payload(which)], 1.5)
    assert reconciler.candidates([(which, START + 1_200) for which in IDS[1:]], 1.5) == []
    reconciler.end()
    assert [batch.ids for batch in reconciler.recent] == [[which] for which in IDS[1:]]
    reconciler.announced([], 1.6)
    assert reconciler.recent[-1].ids == ()


def test_entries_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that some are found, and handed out, once more."""
    monkeypatch.setattr(reconciliation, "_MOST_KNOWN", 1)
    reconciler = _begun()
    reconciler.begin(ServerTime(START + 1_000, 1.0, 1.0))
    entries = [(which, START + 500) for which in IDS]
    for entry in entries:
        reconciler.record([entry], [], START + 500, 1.0)
    assert [each.execution_id for each in reconciler.candidates(entries, 1.0)] == IDS[1:]


def test_where_a_backlog_is_read_on() -> None:
    """Further down when the server's clock went back; how many were given of one score holds for that score alone."""
    backlog = Backlog(START, ())
    backlog.skip = {"key": 3}
    backlog.lower(START + 5)
    backlog.missed([_payload(IDS[0])])
    assert (backlog.since_ms, backlog.skip) == (START, {"key": 3})
    backlog.lower(START - 50)
    assert (backlog.since_ms, backlog.skip) == (START - 50, {})
