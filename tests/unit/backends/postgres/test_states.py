"""One Postgres stream's states: what happens when it overflows, joins, or finds another history."""

from __future__ import annotations

from ffcompletion.backends.postgres.states import Attach, Missing, Read, Standing, StreamState

ALL = (1 << 63) - 1


def joining(after: int = 10, high: int = 50, gaps: list[tuple[int, int]] | None = None) -> Standing:
    """One that has attached, with a page's worth still to be read."""
    standing = Standing(after)
    assert standing.next_step(high) == Attach()
    standing.attached(high, gaps or [])
    return standing


def live() -> Standing:
    standing = Standing(0)
    standing.attached_now(50)
    return standing


def test_far_behind_it_reads_before_it_attaches() -> None:
    standing = Standing(0)
    assert standing.reads
    assert standing.unread(5_000) == 5_000
    assert standing.next_step(5_000) == Read(0, 5_000, ALL)
    standing.page_read(Read(0, 5_000, ALL), 5_000, rows=True)
    assert standing.resume_position(None) == 0
    standing.page_taken(4_000)
    assert standing.resume_position(None) == 4_000
    standing.page_taken(None)
    assert standing.resume_position(None) == 5_000
    assert standing.next_step(5_000) == Attach()


def test_joining_reads_without_the_gaps_that_the_hub_brings() -> None:
    standing = joining(gaps=[(20, 22)])
    assert standing.unread(50) == 37
    assert standing.next_step(50) == Read(10, 50, 19, [(20, 22)])
    standing.page_read(Read(10, 50, 19, [(20, 22)]), 30, rows=False)
    assert standing.next_step(50) == Read(30, 50, 19)
    standing.page_read(Read(30, 50, ALL), 50, rows=False)
    assert standing.next_step(50) is None
    assert standing.state is StreamState.LIVE
    assert not standing.catching_up
    assert standing.next_step(50) is None


def test_overflowing_while_joining_drops_what_is_buffered() -> None:
    """Older rows come first, so it is read again."""
    standing = joining(gaps=[(20, 22)])
    assert standing.overflowed(60, [])
    assert standing.state is StreamState.CATCHING_UP
    assert standing.next_step(60) == Read(10, 50, ALL)
    standing.page_read(Read(10, 50, ALL), 50, rows=False)
    assert standing.unread(60) == 10


def test_overflowing_while_a_page_is_read_leaves_its_holes_to_be_read() -> None:
    """The hub would have brought them; from now on it brings nothing."""
    standing = joining(gaps=[(20, 22)])
    step = standing.next_step(50)
    assert isinstance(step, Read)
    assert standing.overflowed(60, [])
    standing.page_read(step, 50, rows=True)
    standing.page_taken(None)
    assert standing.resume_position(None) == 19
    assert standing.next_step(60) == Read(19, 22, ALL)
    assert standing.unread(60) == 13


def test_overflowing_while_live_keeps_it() -> None:
    """What is buffered comes first; then what was missed, and the gaps that were open."""
    standing = live()
    assert not standing.overflowed(60, [(55, 56)])
    assert standing.state is StreamState.OVERFLOWED
    assert standing.catching_up
    assert not standing.reads
    assert standing.next_step(70) is None
    standing.drained()
    standing.drained()
    assert standing.next_step(70) == Read(54, 56, ALL)
    # Held by somebody still: attached first, and told of by the hub.
    assert standing.next_step(54) == Attach()
    assert standing.resume_position(None) == 54


def test_another_history_is_read_up_to_what_it_knows() -> None:
    """While joining, all of it once more; else what was read stays read."""
    standing = joining(gaps=[(20, 22)])
    assert standing.rewound(30)
    assert (standing.state, standing.generation) == (StreamState.CATCHING_UP, 1)
    assert standing.next_step(30) == Read(10, 30, ALL)

    standing = live()
    assert standing.resume_position(50) == 50
    assert not standing.rewound(40)
    assert standing.resume_position(45) == 45

    standing = Standing(0)
    standing.page_read(Read(0, 5_000, ALL), 5_000, rows=True)
    standing.page_taken(4_000)
    assert not standing.rewound(3_000)
    assert standing.resume_position(None) == 3_000


def test_closed_stays_where_it_is() -> None:
    standing = live()
    standing.closed(60)
    assert standing.resume_position(100) == 60
    assert standing.unread(100) == 0
    assert not standing.catching_up
    assert standing.next_step(100) is None


def test_many_gaps_cost_no_question_each() -> None:
    """One transaction stays open, and every other id is rolled back: what the hub does not bring is read in few steps."""
    gaps = [(number, number) for number in range(11, 200_011, 2)]
    standing, steps = Standing(10), 0
    assert standing.next_step(10) == Attach()
    standing.attached(200_010, gaps)
    while (step := standing.next_step(10)) is not None:
        assert isinstance(step, Read)
        standing.page_read(step, step.upto, rows=False)
        steps += 1
    assert steps <= 30
    assert standing.state is StreamState.LIVE


def test_what_lies_far_apart_is_read_apart() -> None:
    """Nobody reads a million rows for the two at their ends."""
    standing = live()
    assert not standing.overflowed(2_000_000, [(55, 56), (60, 60), (1_000_000, 1_000_001)])
    standing.drained()
    assert standing.next_step(2_000_000) == Read(54, 60, ALL, [(57, 59)])
    standing.page_read(Read(54, 60, ALL), 60, rows=True)
    assert standing.next_step(2_000_000) == Read(999_999, 1_000_001, ALL)


def test_what_is_found_missing_is_pending_or_the_hubs_to_bring() -> None:
    """While catching up it is read when it is no gap any more, and no cursor passes it; an overflow while joining keeps it."""
    standing = Standing(0)
    step = standing.next_step(9_000, 9_000)
    assert step == Read(0, 9_000, ALL)
    standing.page_read(Read(0, 9_000, ALL), 4_000, rows=False, missing=Missing([(10, 12)], [(10, 12)]))
    # It holds the watermark, and not what lies beyond.
    assert standing.next_step(9, 9_000) == Read(4_000, 9_000, 9)
    assert standing.resume_position(None) == 9
    standing.page_read(Read(4_000, 9_000, 9), 9_000, rows=False)
    assert standing.next_step(9_000, 9_000) == Read(9, 12, ALL)
    assert isinstance(standing.next_step(9, 9_000), Attach)
    standing.attached(9_500, [(10, 12)])
    standing.page_read(Read(9_000, 9_500, 9), 9_500, rows=False, missing=Missing([(9_100, 9_101)], [(9_100, 9_100)]))
    assert standing.overflowed(9_900, [])
    # That which has come meanwhile is to be read.
    assert standing.unread(9_500) == 5
    assert standing.next_step(9_000, 9_500) == Read(9, 12, ALL)


def test_what_came_far_below_while_it_was_detached_is_read() -> None:
    """And what was dropped of it as it fell while joining; not what it was brought before."""
    standing = Standing(100)
    standing.attached_now(100, 1)
    assert not standing.overflowed(200, [], 2)
    standing.drained()
    standing.attached(210, [], [5, 6, 9, 7])
    assert standing.unread(210) == 12
    assert standing.overflowed(220, [], 5)
    standing.attached(230, [], [5, 6, 9, 7, 8, 3])
    assert standing.next_step(230) == Read(2, 230, ALL, [(4, 6), (10, 200)])
