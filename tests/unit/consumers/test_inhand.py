"""What a loop has in hand: done when the next is asked for, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from ffcompletion.consumers.inhand import InHand, Work

ONE = ffc.CompletionPayload(ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000"), "success")


def work(log: list[str], name: str = "done") -> Work:
    return ONE, lambda: log.append(name)


async def test_asking_for_the_next_says_that_it_is_processed() -> None:
    """Once."""
    hand, log = InHand(), list[str]()
    assert not hand.done()
    assert hand.take(work(log)) is ONE
    assert log == []
    assert hand.done()
    assert not hand.done()
    assert log == ["done"]


async def test_what_is_put_back_comes_again() -> None:
    """It is not processed, unless somebody says so after all."""
    hand, log = InHand(), list[str]()
    hand.put_back()
    assert hand.again() is None
    hand.take(work(log))
    hand.put_back()
    again = hand.again()
    assert again is not None
    assert hand.again() is None
    hand.take(again)
    hand.put_back()
    hand.commit()
    hand.commit()
    assert log == ["done"]


async def test_two_tasks_cannot_have_one_in_hand() -> None:
    """One that has ended has handed on what it was given."""
    hand, log, go_on = InHand(), list[str](), asyncio.Event()

    async def holds() -> None:
        hand.take(work(log))
        await go_on.wait()

    holder = asyncio.create_task(holds())
    await asyncio.sleep(0)
    for refused in (hand.done, hand.put_back):
        with pytest.raises(ffc.Unavailable, match="another task"):
            refused()
    go_on.set()
    await holder
    assert hand.done()
    assert log == ["done"]
