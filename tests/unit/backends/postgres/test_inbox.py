"""What the listener has heard waits for whoever looks: level-triggered, and bounded."""

from __future__ import annotations

import asyncio

from ffcompletion.backends.postgres.inbox import Inbox


async def test_what_is_there_is_not_waited_for() -> None:
    """Whatever came before anybody looked."""
    inbox = Inbox()
    inbox.echoed("a")
    await asyncio.wait_for(inbox.echo(), 20)
    assert inbox.take_echoes() == []
    inbox.announced('{"event_id":5}')
    assert inbox.changed.is_set()
    assert bool(inbox.pending)
    inbox.take_announced()
    assert (inbox.pending, inbox.received) == (False, 1)


async def test_an_echo_is_waited_for_through_other_changes() -> None:
    """And its end is the end of waiting."""
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.echo())
    await asyncio.sleep(0)
    inbox.announced("x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.echoed("a")
    await asyncio.wait_for(waiting, 20)
    waiting = asyncio.create_task(inbox.echo())
    await asyncio.sleep(0)
    error = OSError("gone")
    inbox.ended(error)
    await asyncio.wait_for(waiting, 20)
    assert inbox.lost is error


async def test_anybody_may_notify_the_channel() -> None:
    """However often: no more than so much is kept."""
    inbox = Inbox()
    for number in range(100_000):
        inbox.echoed(str(number))
    taken = inbox.take_echoes()
    assert len(taken) <= 100
    assert taken[-1] == "99999"
