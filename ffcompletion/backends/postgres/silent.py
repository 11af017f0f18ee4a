"""What ended without a row in the outbox: which of the records that were read are news, and for whom. No I/O, no clock.

Cancelling writes no row; so terminal records without one are looked for, by the time at which they ended. A completion
is an execution *and* that time: an execution may be replayed and end again. Clocks of the machines that write the times
may lie apart, so every look reads some of what the last one did again, and what is known is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, Protocol, final

import msgspec

from ffcompletion.backends.postgres.rows import tags_of
from ffcompletion.backends.postgres.snapshots import outcome_of
from ffcompletion.backends.postgres.unread import Unread
from ffcompletion.contract.ids import trusted_execution_id, trusted_flow_id
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import UNREADABLE, Facts
from ffcompletion.delivery.buffer import Room
from ffcompletion.delivery.hub import Selector

__all__ = [
    "SLACK_MS",
    "Backlog",
    "DecidedEnds",
    "End",
    "EndRow",
    "Receiver",
    "Silent",
    "end_of",
    "facts_of",
    "partition_of",
    "payload_of",
]

SLACK_MS: Final = 5
"""A row is of the same completion as a record if its time is at most so much earlier: both are written with one time."""
# Ends that are remembered from look to look, some 20 MB: beyond that some are found, and handed out, once more.
_KNOWN: Final = 100_000
# Ends of a stream that are remembered, in case a row for one comes later.
_REMEMBERED: Final = 50_000
# By how much a record's time may lie before a stream was opened, and still be of after that.
_JUST_BEFORE_MS: Final = 1_000


@final
class End(msgspec.Struct, frozen=True, gc=False):
    """A terminal record without a row."""

    name: str
    """The execution's id."""
    at_ms: int
    outcome: str
    flow_id: str | None
    namespace: str | None
    tags: str | None
    """Their JSON text."""
    size: int | None
    """Bytes of the stored result; None if there is none."""
    readable: bool = True


# As it is read: partition, bare id, namespace, tags, size, time, flow, phase, cancellation's reason, failure, readable;
# and how many the page would have had without the bound on its bytes.
EndRow = tuple[
    int, str, str | None, str | None, int | None, int, str | None, str, str | None, str | None, bool, int
]  # fmt: skip


def end_of(row: EndRow, *, readable: bool) -> End:
    """The end that this record is."""
    partition, bare, namespace, tags, size, at_ms, flow, phase, reason, failure, whole, _ = row
    outcome = outcome_of(None, phase, reason, failure)
    return End(f"{{fp:{partition}}}:{bare}", at_ms, outcome, flow, namespace, tags, size, readable and whole)


def partition_of(name: str) -> int:
    """The partition key in an id as it is made here."""
    return int(name[4 : name.index("}")])


def payload_of(end: End) -> CompletionPayload:
    """As a stream yields it, but for the cursor."""
    flow = None if end.flow_id is None else trusted_flow_id(end.flow_id)
    return CompletionPayload(trusted_execution_id(end.name), end.outcome, None, end.at_ms, flow)


def facts_of(end: End) -> Facts | None:
    """What filters are decided by; None where that cannot be told."""
    if not end.readable:
        return None
    tags = tags_of(end.tags)
    return end.namespace, UNREADABLE if tags is None else tags


@final
class Backlog:
    """Ends that are still to be looked for on behalf of one stream: everywhere since a time, or what a look has found."""

    __slots__ = ("_since_ms", "unread")

    def __init__(self, since_ms: int | None = None) -> None:
        self._since_ms = since_ms
        self.unread: Unread = Unread()

    def __bool__(self) -> bool:
        return self._since_ms is not None or bool(self.unread)

    def begin(self, keys: Sequence[int]) -> None:
        """The partitions are known; none: the table is not partitioned."""
        if self._since_ms is not None:
            for key in keys or (None,):
                self.unread.add(key, self._since_ms)
            self._since_ms = None

    def add(self, ends: Iterable[End], keys: Sequence[int]) -> None:
        """These are for the stream, and it could not take them."""
        for end in ends:
            self.unread.add(partition_of(end.name) if keys else None, end.at_ms)


class Receiver(Protocol):
    """A stream, as the reconciler sees it."""

    selector: Selector
    backlog: Backlog
    """Ends that are still to be looked for on behalf of this stream alone."""

    @property
    def closed(self) -> bool:
        """Whether it wants nothing any more."""
        ...

    @property
    def room(self) -> Room:
        """What it can take."""
        ...

    def unseen(self, ends: Sequence[End], /) -> Sequence[End]:
        """Those of the ends that are for it, and were not decided for it."""
        ...

    def found(self, ends: Sequence[End], chosen: Sequence[CompletionPayload], withheld: tuple[int, int], /) -> None:
        """These ends were decided: what it admits of them, and how many are filtered and undecided."""
        ...


@final
class Silent:
    """What one reconciler has found, from look to look. Times are the server's, in ms.

    Not every look is at every partition: each of them is read since its own last look.
    """

    __slots__ = ("_began_ms", "_first_ms", "_known", "_overlap", "_since_ms", "_start_ms")

    def __init__(self, overlap_ms: int) -> None:
        self._overlap = overlap_ms
        self._start_ms: int | None = None
        self._first_ms = 0
        self._began_ms = 0
        # By partition; None is the one table that is not partitioned.
        self._since_ms: dict[int | None, int] = {}
        self._known: dict[str, int] = {}

    def begin(self, server_ms: int) -> None:
        """A look begins. What ended before the first one did is not news."""
        if self._start_ms is None:
            self.start_anew(server_ms)
        self._began_ms = server_ms

    def since_ms(self, key: int | None) -> int:
        """Of this partition (None: of the table), read the records that ended at this time or later."""
        since_ms = self._since_ms.get(key, self._since_ms.get(None, self._first_ms))
        # Should the server's clock have gone back, what it writes now has earlier times.
        return min(since_ms, self._began_ms - self._overlap)

    def candidates(self, ends: Iterable[End]) -> list[End]:
        """Those that no look has seen, oldest first."""
        fresh: list[End] = []
        for end in ends:
            if self._known.get(end.name) != end.at_ms:
                self._known[end.name] = end.at_ms
                if self._start_ms is None or end.at_ms >= self._start_ms:
                    fresh.append(end)
        if len(self._known) > _KNOWN:
            self._known = dict(islice(self._known.items(), len(self._known) - _KNOWN * 3 // 4, None))
        return sorted(fresh, key=lambda end: end.at_ms)

    def forget(self, ends: Iterable[End]) -> None:
        """They could not be handed out: the next look is to find them again."""
        for end in ends:
            self._known.pop(end.name, None)

    @property
    def began_ms(self) -> int:
        """When the look began."""
        return self._began_ms

    def looked_at(self, key: int | None, began_ms: int) -> None:
        """Of this partition (None: the table) everything has been read, in a look that began at that time."""
        self._since_ms[key] = began_ms - self._overlap

    def end(self) -> None:
        """The look is complete: what no look will read again need not be known."""
        self._known = {name: at_ms for name, at_ms in self._known.items() if at_ms >= self.since_ms(partition_of(name))}

    def start_anew(self, server_ms: int) -> None:
        """The first stream was opened at this time: the looks to come begin there."""
        self._start_ms = server_ms
        self._began_ms = server_ms
        self._first_ms = server_ms - self._overlap
        self._since_ms.clear()
        self._known.clear()


@final
class DecidedEnds:
    """The ends that were decided for one stream: each once, and no row for one that it was given. Bounded.

    An end that its filter did not admit says nothing of a row that comes later: row and record may name different
    namespaces, and the row decides for itself.
    """

    __slots__ = ("_ends", "_opened_ms")

    def __init__(self, opened_ms: int) -> None:
        """``opened_ms``: what ended before is not for this stream."""
        self._opened_ms = opened_ms
        # When it ended, and whether the stream was given it.
        self._ends: OrderedDict[str, tuple[int, bool]] = OrderedDict()

    def wanted(self, ends: Sequence[End]) -> list[End]:
        """Those of the ends that are for this stream, and were not decided for it."""
        return [end for end in ends if end.at_ms >= self._opened_ms - _JUST_BEFORE_MS and not self._is_decided(end)]

    def decide(self, ends: Iterable[End], chosen: Iterable[CompletionPayload]) -> None:
        """They are decided; the stream is given the chosen ones."""
        given = {payload.execution_id for payload in chosen}
        for end in ends:
            self._ends[end.name] = (end.at_ms, end.name in given)
            self._ends.move_to_end(end.name)
        while len(self._ends) > _REMEMBERED:
            self._ends.popitem(last=False)

    def without_given(self, payloads: Sequence[CompletionPayload]) -> Sequence[CompletionPayload]:
        """Rows without those for a completion that was given already. The very same sequence where there is none."""
        if not self._ends:
            return payloads
        rest = [payload for payload in payloads if not self._is_given(payload)]
        return payloads if len(rest) == len(payloads) else rest

    def _is_decided(self, end: End) -> bool:
        known = self._ends.get(end.name)
        return known is not None and known[0] == end.at_ms

    def _is_given(self, payload: CompletionPayload) -> bool:
        known = self._ends.get(payload.execution_id)
        return known is not None and known[1] and abs(payload.produced_at_ms - known[0]) <= SLACK_MS
