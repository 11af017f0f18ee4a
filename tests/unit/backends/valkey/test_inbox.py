"""The inbox: what arrives in order, within bounds, and how much of it is taken at a time."""

from __future__ import annotations

import asyncio

from ffcompletion.backends.valkey.inbox import Inbox
from ffcompletion.backends.valkey.wire import LONGEST


async def test_in_order_and_so_many_at_a_time() -> None:
    """What is left stays."""
    inbox = Inbox()
    for number in range(5):
        inbox.put(b"%d" % number)
    assert inbox.take(3) == [b"0", b"1", b"2"]
    assert not inbox.heavy
    assert len(inbox) == 2
    assert inbox.take(3) == [b"3", b"4"]
    assert inbox.take(3) == []


async def test_large_ones_are_taken_few_at_a_time() -> None:
    """While many of them are read, what arrives next is held where nothing bounds it."""
    inbox = Inbox()
    for _ in range(1_000):
        inbox.put(b"x" * LONGEST)
    taken = inbox.take(1_000)
    assert 1 <= len(taken) * LONGEST <= 256 << 10
    assert inbox.heavy
    inbox.take(1_000)
    assert inbox.heavy


async def test_of_one_that_is_too_long_nothing_is_kept() -> None:
    """It is counted where it is read: no announcement."""
    inbox = Inbox(most_bytes=10_000)
    inbox.put(b"x" * (LONGEST + 1))
    inbox.put(b"y")
    assert inbox.take(10) == [b"", b"y"]
    assert inbox.heavy
    inbox.put(b"y")
    inbox.take(1)
    assert not inbox.heavy


async def test_the_oldest_go_when_it_is_full() -> None:
    """By number and by bytes, and they are counted; the newest always stays."""
    many = Inbox(most=3)
    for number in range(5):
        many.put(b"%d" % number)
    assert many.take(9) == [b"2", b"3", b"4"]
    assert many.dropped == 2
    large = Inbox(most_bytes=2_500)
    for number in range(4):
        large.put(b"%d" % number * 1_000)
    assert [message[:1] for message in large.take(9)] == [b"2", b"3"]
    assert large.dropped == 2


async def test_whoever_waits_is_woken_from_another_thread_too() -> None:
    """And what is there already is not waited for."""
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(inbox.put, b"x")
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(inbox.ready(), 5)
    assert inbox.take(1) == [b"x"]


async def test_the_inbox_is_bounded_by_number_and_by_bytes() -> None:
    """The oldest go, counted; whoever waits is woken, from any thread, also for what came before it waited."""
    inbox = Inbox(most=5, most_bytes=100)
    for number in range(9):
        inbox.put(b"%d" % number)
    assert (len(inbox), inbox.dropped) == (5, 4)
    assert inbox.take(3) == [b"4", b"5", b"6"]
    inbox.put(b"x" * 90)
    inbox.put(b"y" * 90)
    assert (len(inbox), inbox.dropped) == (1, 7)
    await asyncio.wait_for(inbox.ready(), 20)
    assert inbox.take(10) == [b"y" * 90]
    inbox.put(b"z" * 1000)
    assert inbox.take(1) == [b"z" * 1000]
    waiting = asyncio.create_task(inbox.ready())
    await asyncio.sleep(0)
    await asyncio.to_thread(inbox.put, b"late")
    await asyncio.wait_for(waiting, 20)
    assert inbox.take(1) == [b"late"]
