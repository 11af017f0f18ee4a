"""Whether the outbox is still the one that was read."""

from __future__ import annotations

import pytest

from ffcompletion.backends.postgres.history import History, Identity, Issue, Mark, anchors
from ffcompletion.backends.postgres.rows import Row


def rows(first: int, last: int, name: str = "x") -> list[Row]:
    return [(n, f"{name}{n}", "success", 0, None, None) for n in range(first, last + 1)]


def remembering(*batches: list[Row]) -> History:
    history = History()
    for batch in batches:
        history.remember([row[0] for row in batch], batch)
    return history


OLD = rows(11, 20)


@pytest.mark.parametrize(
    ("newest", "found", "remembered", "same_upto"),
    [
        pytest.param(20, rows(1, 20), OLD, 20, id="the same"),
        pytest.param(25, rows(1, 25), OLD, 20, id="the same, and newer ones"),
        pytest.param(15, rows(1, 15), OLD, 15, id="a replica that lagged"),
        pytest.param(25, rows(1, 13) + rows(14, 25, "y"), OLD, 13, id="another one from the fourteenth on"),
        pytest.param(
            25, rows(1, 13) + rows(16, 25, "y"), OLD, 13, id="another one, whose ids before it may be to come"
        ),
        pytest.param(30, rows(1, 30, "y"), OLD, 0, id="another one"),
        pytest.param(20, rows(11, 13, "y") + rows(14, 20), OLD, 0, id="another one below what is the same"),
        pytest.param(5, rows(1, 5), OLD, 0, id="all that is remembered is newer"),
        pytest.param(0, [], OLD, 0, id="it was emptied"),
        pytest.param(15, [], OLD, 0, id="another one, whose ids are all to come"),
        pytest.param(12, rows(1, 12, "y"), [], 0, id="nothing was handed out"),
    ],
)
def test_a_history_is_compared_by_its_rows(
    newest: int, found: list[Row], remembered: list[Row], same_upto: int
) -> None:
    """A page after the other; the highest that was seen is 20."""
    comparison = remembering(remembered).compare(newest, 20)
    while (after := comparison.after) is not None:
        comparison.page([row for row in found if row[0] > after][:3], 3)
    assert comparison.same_upto == same_upto


@pytest.mark.parametrize(
    ("start", "found"), [(0, [0]), (1, [1]), (2, [2, 1]), (5, [5, 4, 1]), (100, [100, 99, 96, 84, 36])]
)
def test_anchors_lie_further_and_further_below_the_start(start: int, found: list[int]) -> None:
    assert anchors(start) == found


@pytest.mark.parametrize(
    ("newest", "found", "same"),
    [
        pytest.param(98, rows(1, 98), 96, id="a copy that lagged"),
        pytest.param(98, rows(90, 98), 96, id="it was trimmed, too"),
        pytest.param(98, rows(1, 90) + rows(91, 98, "y"), 84, id="another one from somewhere on"),
        pytest.param(98, rows(1, 98, "y"), 0, id="another one"),
        pytest.param(30, rows(1, 30), 0, id="what is left is older than all"),
        pytest.param(98, [], 0, id="it was emptied"),
    ],
)
def test_a_copy_that_lacks_all_that_was_handed_out_is_known_by_what_lay_below(
    newest: int, found: list[Row], same: int
) -> None:
    history = remembering(rows(200, 210))
    history.begin(100, [row for row in reversed(rows(1, 100)) if row[0] in anchors(100)])
    assert history.witness(300) == (100, "x100")
    ids = history.anchored(newest)
    assert history.same_anchor([row for row in found if row[0] in ids]) == same
    history.forget(same)
    assert all(event_id <= same for event_id in history.anchored(1_000))


def test_what_was_handed_out_last_is_remembered() -> None:
    """Ten thousand rows at the least, and not for ever."""
    history = remembering(rows(1, 6_000), rows(6_001, 12_000), rows(12_001, 18_000))
    assert history.witness(6_000) is None
    assert history.witness(6_001) == (6_001, "x6001")
    history.doubtful = True
    history.forget(12_001)
    assert (history.witness(18_000), history.doubtful) == ((12_001, "x12001"), False)
    history.remember([12_002], rows(12_002, 12_002))
    assert history.witness(18_000) == (12_002, "x12002")
    history.forget()
    assert (history.witness(18_000), history.doubtful) == (None, False)


def test_the_witness_is_the_newest_row_at_or_before_a_position() -> None:
    """Of those that say whose completion they are."""
    history = remembering(rows(3, 3) + rows(5, 5), [(8, None, "success", 0, None, None)], rows(9, 9))
    assert [history.witness(upto) for upto in (2, 4, 8, 100)] == [None, (3, "x3"), (5, "x5"), (9, "x9")]


def test_the_sequence_tells_of_another_history() -> None:
    """Another file or another outbox, or it has given out less than was seen; then it is doubtful until it was compared."""
    here = Identity(outbox=1, sequence=2)
    for told in (Issue(20, 1, 2), Issue(None, 1, 2)):
        assert not History().replaced_by(told, here, 20)
    for told in (Issue(19, 1, 2), Issue(20, 1, 3), Issue(20, 3, 2)):
        history = History()
        assert history.replaced_by(told, here, 20)
        assert history.doubtful
        assert history.replaced_by(Issue(20, 1, 2), here, 20)


def test_a_row_is_looked_at_again() -> None:
    """Now and then, the newest of the time before: another may bear its id by now, and newer ones be of another history."""
    history = remembering(OLD)
    assert history.due(100.0, 30.0, 20) is None, "there is none from before"
    assert history.due(129.0, 30.0, 20) is None
    assert history.due(130.0, 30.0, 20) == 20
    assert not history.replaced_at(20, rows(20, 20), 20)
    history.remember([21], rows(21, 21, "y"))
    assert history.due(160.0, 30.0, 21) == 20
    assert not history.replaced_at(20, [], 21), "it was trimmed"
    assert history.due(190.0, 30.0, 21) == 21
    assert history.replaced_at(21, rows(21, 21), 21)
    assert history.doubtful
    history.forget(20)
    assert history.due(191.0, 30.0, 20) is None, "what was known is of no interest"


def test_the_newest_is_what_a_server_is_known_again_by() -> None:
    """A row of its id that is another is another history; none at all tells nothing, since outboxes are trimmed."""
    for found, doubtful in ((rows(20, 20), False), ([], False), (rows(20, 20, "y"), True)):
        history = remembering(OLD)
        assert history.newest(20) == 20
        assert history.replaced_at(20, found, 20) is doubtful
    assert History().newest(20) is None


def test_marks() -> None:
    """Their text, and what they tell."""
    row = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"
    here = Mark.of(Identity("1", "system", 5, 16_384, 16_390), None)
    mark = Mark(5, 16_384, 16_390, (42, row))
    assert str(mark) == f"5.16384.16390:42={row}"
    assert Mark.parse(str(mark)) == mark
    assert Mark.parse(str(here)) == here
    for text in ("", "outbox", "1.2", "1.2.3:", "1.2.3:4", "1.2.3:4=", "1.2.3:4=a b", "1.2.3:x=a"):
        assert Mark.parse(text) is None
    other = Mark(6, 16_384, 16_390)
    assert mark.same(here, row) is True
    assert mark.same(other, row) is True
    assert mark.same(here, "{fp:7}:650e8400-e29b-41d4-a716-446655440000") is False
    # Its row was trimmed.
    assert mark.same(here, None) is True
    assert mark.same(other, None) is False
    assert here.same(here, None) is True
    assert here.same(other, None) is None
