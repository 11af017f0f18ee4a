"""What ended without a row, for one stream: on its buffer's account until the consumer takes it."""

from __future__ import annotations

import time

import ffcompletion as ffc
from ffcompletion.backends.postgres.found import FoundEnds
from ffcompletion.backends.postgres.silent import End
from ffcompletion.delivery.buffer import Buffer

NAME = "{fp:0}:00000000-0000-4000-8000-00000000000%d"


def end(number: int, at_ms: int = 10_000) -> End:
    return End(NAME % number, at_ms, "cancelled", None, None, None, None)


def payload(number: int, at_ms: int = 10_000) -> ffc.CompletionPayload:
    return ffc.CompletionPayload(ffc.ExecutionId(NAME % number), "cancelled", b"12345", at_ms)


def test_what_is_found_waits_on_the_buffer_s_account() -> None:
    """Each is decided once, and takes room until it is taken, in order."""
    buffer = Buffer(10, weighed=True)
    found = FoundEnds(buffer, 10_000)
    mine = found.unseen([end(1), end(2), end(3), end(4, 1)])
    assert [each.name for each in mine] == [NAME % 1, NAME % 2, NAME % 3], "one ended before the stream was opened"
    found.add(mine, [payload(1)], (1, 1))
    assert found.unseen(mine) == []
    found.add([end(4), end(5)], [payload(4), payload(5)], (0, 0))
    assert (len(found), buffer.room.items, buffer.beside_bytes) == (3, 7, 15)
    assert (found.filtered, found.undecided) == (1, 1)
    here = ffc.StreamCursor.outbox(7)
    assert [(one.execution_id, one.cursor) for one in found.take(here)] == [(NAME % 1, here)]
    assert [one.execution_id for one in found.take(here)] == [NAME % 4, NAME % 5]
    assert (len(found), buffer.room.items, buffer.beside_bytes) == (0, 10, 0)


def test_nothing_that_is_admitted_takes_no_room() -> None:
    buffer = Buffer(10)
    found = FoundEnds(buffer, 10_000)
    found.add([end(1)], [], (1, 0))
    assert (len(found), found.filtered, buffer.room.items) == (0, 1, 10)


def test_a_row_for_what_was_given_is_filtered() -> None:
    found = FoundEnds(Buffer(10), 10_000)
    found.add([end(1)], [payload(1)], (0, 0))
    assert found.without_given([payload(1), payload(2)]) == [payload(2)]
    assert found.filtered == 1


def test_the_age_is_that_of_the_next() -> None:
    found = FoundEnds(Buffer(10), 0)
    for number, ago_ms in (1, 60_000), (2, 5_000):
        found.add([end(number)], [payload(number, int(time.time() * 1000) - ago_ms)], (0, 0))
    assert found.age_s is not None
    assert 59 < found.age_s < 70
