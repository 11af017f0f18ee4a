"""``contained``: whatever a caller's code raises is a failure of its own, and told now and then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ffcompletion.foreign.calling import FAILED, Culprit, contained, discard, name_of
from ffcompletion.foreign.logs import logger


def _raises(_: object) -> Any:
    raise ValueError


# Says of itself that it is something else.
Liar = type("Liar", (), {"__class__": property(_raises)})


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit, StopIteration])
def test_whatever_it_raises_stays_here(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """Counted each time, one line for many."""
    culprit = Culprit("the code", logger("ffcompletion.test"))

    def raises(_: int) -> int:
        raise error

    for _ in range(3):
        assert contained(culprit, raises, 1) is FAILED
    assert culprit.failures == 3
    assert caplog.messages == [f"the code raised {error.__name__} (1 since the last line)"]


def test_an_answer_is_handed_on() -> None:
    """Also one that is empty, or false."""
    culprit = Culprit("the code", logger("ffcompletion.test"))
    assert [contained(culprit, each, 0) for each in (int, bool, lambda _: None)] == [0, False, None]
    assert culprit.failures == 0


def test_a_name_runs_nothing_of_the_object() -> None:
    assert name_of(Liar()) == "Liar"
    assert name_of(3) == "int"


def test_a_coroutine_that_is_of_no_use_is_closed() -> None:
    """Python would warn, as if we had forgotten it; a warning is an error here."""

    async def answer() -> None: ...

    assert discard(answer())
    assert not discard(3)
