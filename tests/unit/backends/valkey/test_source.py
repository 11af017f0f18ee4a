"""One stream's buffer behind the hub: what does not fit is missed and recovered, or lost and counted; nobody else notices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey.backlog import Backlog
from ffcompletion.backends.valkey.source import Source
from ffcompletion.backends.valkey.states import NOTHING_DENIED
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.hub import Hub, Selector
from ffcompletion.delivery.tenure import Lease


def some(count: int, first: int = 0) -> list[ffc.CompletionPayload]:
    return [
        ffc.CompletionPayload(ffc.ExecutionId(f"{{fp:0}}:00000000-0000-4000-8000-{number:012d}"), "success")
        for number in range(first, first + count)
    ]


class Recovery:
    """Remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[Source] = []

    def now_ms(self) -> int:
        return 1_000

    def backlog(self, selector: Selector) -> Backlog:
        return Backlog(0, ())

    def recover(self, source: Source) -> None:
        self.asked.append(source)


async def ended(lease: Lease) -> None:
    """The backend's part in closing."""


class Stream:
    """A source of four places, its hub and its recovery."""

    def __init__(self, *, recovers: bool = True) -> None:
        self.hub, self.recovery = Hub[Source](), Recovery()
        self.source = Source(
            self.hub, Selector(None), 4, 0, 0.0, self.recovery if recovers else None, Lease(ended)
        )  # fmt: skip

    def publish(self, payloads: Sequence[ffc.CompletionPayload]) -> None:
        self.hub.publish(Batch(payloads))

    def taken(self) -> int:
        count = 0
        while hand := len(self.source.take().batch):
            count += hand
        return count

    @property
    def accounted(self) -> int:
        stats = self.source.stats()
        return stats.delivered + stats.buffered + stats.filtered + stats.undecided + stats.lost


def test_without_anything_to_recover_from_what_does_not_fit_is_lost() -> None:
    """As many as there is room for are kept, the rest is counted, and it goes on."""
    stream = Stream(recovers=False)
    stream.publish(some(6))
    stats = stream.source.stats()
    assert (stats.buffered, stats.lost, stats.overflows, stats.catching_up) == (4, 2, 1, False)
    assert stream.taken() == 4
    stream.publish(some(1, 6))
    assert (stream.taken(), stream.accounted) == (1, 7)


def test_what_does_not_fit_is_asked_for_once_there_is_room() -> None:
    """Not before: what waits to be taken comes first."""
    stream = Stream()
    stream.publish(some(3))
    stream.publish(some(2, 3))
    assert not stream.recovery.asked
    stats = stream.source.stats()
    assert (stats.buffered, stats.lost, stats.catching_up, stats.lag.completions) == (3, 0, True, 5)
    stream.publish(some(1, 5))
    assert stream.source.stats().buffered == 3, "it takes nothing from the hub while it is behind"
    assert stream.taken() == 3
    assert stream.recovery.asked[-1] is stream.source


def joining() -> Stream:
    """It has taken three, missed three, and is told of one more as it joins."""
    stream = Stream()
    stream.publish(some(3))
    stream.publish(some(3, 3))
    stream.taken()
    stream.source.join()
    stream.publish(some(1, 6))
    return stream


def test_it_is_live_again_with_the_last_of_what_it_missed() -> None:
    """What is announced while that is read is not given twice."""
    stream = joining()
    missed = stream.source.without_received(some(4, 3))
    assert [payload.execution_id for payload in missed] == [payload.execution_id for payload in some(3, 3)]
    assert stream.source.recovered(missed, NOTHING_DENIED, all_of_it=True)
    assert not stream.source.stats().catching_up
    assert (stream.taken(), stream.accounted) == (4, 7)


def test_what_was_announced_while_it_joins_is_known_when_that_is_tried_again() -> None:
    """The server was away in between: it lies in the buffer, and comes once."""
    stream = joining()
    stream.source.join()
    missed = stream.source.without_received(some(4, 3))
    assert stream.source.recovered(missed, NOTHING_DENIED, all_of_it=True)
    assert (stream.taken(), stream.accounted) == (4, 7)


def test_what_was_recovered_and_does_not_fit_is_still_missing() -> None:
    stream = Stream()
    stream.publish(some(3))
    stream.publish(some(9, 3))
    stream.source.join()
    assert not stream.source.recovered(some(9, 3), NOTHING_DENIED, all_of_it=True)
    assert stream.source.stats().catching_up
    assert stream.taken() == 3


def test_what_can_be_read_no_more_is_lost_and_counted() -> None:
    stream = Stream()
    stream.publish(some(3))
    stream.publish(some(2, 3))
    stream.source.unrecoverable()
    stats = stream.source.stats()
    assert (stats.lost, stats.catching_up) == (2, False)
    stream.taken()
    stream.publish(some(1, 5))
    assert (stream.taken(), stream.accounted) == (1, 6)


@pytest.mark.parametrize("behind", [False, True])
async def test_one_that_is_closed_takes_and_asks_for_nothing(behind: bool) -> None:
    """And nothing of it stays in the hub."""
    stream = Stream()
    stream.publish(some(5 if behind else 2))
    await stream.source.aclose()
    await stream.source.aclose()
    assert not stream.hub.groups
    asked = len(stream.recovery.asked)
    stream.publish(some(3, 5))
    stream.source.request()
    assert len(stream.recovery.asked) == asked
    assert stream.source.closed
    await stream.source.ready()
