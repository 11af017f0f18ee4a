"""What waits for one client: a full one forgets its oldest and says so, or ends, to be resumed."""

from __future__ import annotations

import asyncio

from ffcompletion.web.outbox import Outbox


def test_a_lossy_one_says_how_many_were_lost() -> None:
    """Before what is left, once."""
    outbox = Outbox(2, lossy=True)
    for frame in (b"1", b"2", b"3", b"4"):
        outbox.put(frame)
    assert (len(outbox), outbox.overflowed, outbox.ended) == (2, True, False)
    taken = outbox.take()
    assert b'"count":2' in taken
    assert taken.endswith(b"34")
    outbox.put(b"5")
    assert outbox.take() == b"5"


def test_one_that_can_be_resumed_ends_when_it_is_full() -> None:
    """What it was not sent, it gets when it comes back."""
    outbox = Outbox(2, lossy=False)
    for frame in (b"1", b"2", b"3", b"4"):
        outbox.put(frame)
    assert (len(outbox), outbox.overflowed, outbox.ended, outbox.take()) == (0, True, True, b"")


async def test_what_is_there_is_not_waited_for() -> None:
    outbox = Outbox(2, lossy=True)
    await asyncio.wait_for(outbox.ready(0), 20)
    outbox.put(b"1")
    await asyncio.wait_for(outbox.ready(1_000), 20)
    outbox.take()
    waiting = asyncio.create_task(outbox.ready(1_000))
    await asyncio.sleep(0)
    outbox.put(b"2")
    await asyncio.wait_for(waiting, 20)


async def test_room_is_made_by_taking_or_by_the_end() -> None:
    outbox = Outbox(1, lossy=True)
    await asyncio.wait_for(outbox.room(), 20)
    for make in (outbox.take, outbox.end):
        outbox.put(b"1")
        waiting = asyncio.create_task(outbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        make()
        await asyncio.wait_for(waiting, 20)


async def test_after_the_end_what_is_left_can_be_taken_and_nothing_is_put() -> None:
    """Nor is there anything to wait for: whoever waits is told."""
    outbox = Outbox(2, lossy=True)
    waiting = asyncio.create_task(outbox.ready(1_000))
    await asyncio.sleep(0)
    outbox.put(b"1")
    outbox.end()
    outbox.put(b"2")
    await asyncio.wait_for(waiting, 20)
    assert outbox.take() == b"1"
    await asyncio.wait_for(outbox.ready(1_000), 20)


async def test_the_end_wakes_whoever_waits_for_frames() -> None:
    outbox = Outbox(2, lossy=True)
    waiting = asyncio.create_task(outbox.ready(1_000))
    await asyncio.sleep(0)
    outbox.end()
    await asyncio.wait_for(waiting, 20)


def test_frames_beyond_all_measure_are_taken_in_pieces() -> None:
    """What the server holds for a client that takes nothing is bounded by bytes, too."""
    outbox = Outbox(100, lossy=True)
    frames = [bytes([number]) * 100_000 for number in range(10)]
    for frame in frames:
        outbox.put(frame)
    pieces = []
    while piece := outbox.take():
        pieces.append(piece)
    assert b"".join(pieces) == b"".join(frames)
    assert max(map(len, pieces)) < 400_000
