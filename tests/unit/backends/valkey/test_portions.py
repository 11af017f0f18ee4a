"""How much is asked for at once: less where answers are late, more where they come at once."""

from __future__ import annotations

import pytest

from ffcompletion.backends.valkey.portions import Portions

GET = ("GET", "large")
MANY, ONE = (("ZRANGE", "k", "0", "9", "BYSCORE", "LIMIT", "0", count, "WITHSCORES") for count in ("8", "1"))


def test_a_piece_that_is_late_makes_the_next_ones_smaller() -> None:
    """By half if it came at last, by much if it did not; one command at the least."""
    portions = Portions(patient=False)
    most = portions.most
    portions.answered(most, 1.5)
    assert portions.most == most // 2
    portions.unanswered(portions.most)
    assert portions.most == most // 16
    for _ in range(9):
        portions.unanswered(portions.most)
    assert portions.most == 1
    portions.answered(1, 9.0)
    assert portions.most == 1


def test_only_a_whole_piece_that_comes_at_once_makes_them_larger() -> None:
    """A few commands say nothing about many; and there is a largest."""
    portions = Portions(patient=False)
    most = portions.most
    portions.unanswered(most)
    small = portions.most
    portions.answered(small, 0.5)
    portions.answered(small - 1, 0.0)
    assert portions.most == small
    portions.answered(small, 0.1)
    assert portions.most == 2 * small
    for _ in range(9):
        portions.answered(portions.most, 0.0)
    assert portions.most == most


@pytest.mark.parametrize(("patient", "tries", "longest"), [(False, 1, 1), (True, 4, 16)])
def test_a_command_without_an_answer_is_put_again(patient: bool, tries: int, longest: int) -> None:
    """With twice the time, up to a limit; on the shared connection once, with the same."""
    portions = Portions(patient=patient)
    put = 0
    while portions.is_put_again(GET, again=put > 0):
        put += 1
    assert (put, portions.patience) == (tries, longest)
    # The next question about something as large is put once more at the least: it has had no turn yet.
    assert portions.is_put_again(GET, again=False)


def test_patience_goes_as_it_came() -> None:
    """With each answer that comes at once; one that takes its time needs it."""
    portions = Portions(patient=True)
    for again in (False, True):
        assert portions.is_put_again(GET, again=again)
    portions.answered(1, 0.6)
    assert portions.patience == 4
    portions.answered(1, 0.1)
    assert portions.patience == 2
    for _ in range(3):
        portions.answered(1, 0.1)
    assert portions.patience == 1


def test_what_can_be_asked_for_in_pieces_is_not_waited_for() -> None:
    """A page of a key is refused at once, so that a smaller one is asked for; of a single entry there is none."""
    portions = Portions(patient=True)
    assert not portions.is_put_again(MANY, again=False)
    assert portions.patience == 1
    assert portions.is_put_again(ONE, again=False)
