"""What one Postgres stream still owes its consumer, as named states; and from that, where it would have to resume.

Pure: no I/O, no clock. The source tells it what happened and does what ``next_step`` says.

- *catching up*: everything after ``read_to`` and the *pending* spans are still to be read;
- *joining*: attached to the hub at a known highest id and with known gaps. What is pending up to there is read first,
  without those gaps: the hub brings them, and all the rest, and that waits in the buffer meanwhile;
- *live*: nothing is pending; what comes, the hub brings;
- *overflowed*: detached, because the buffer was full. What it holds comes first, then the rest is read: catching up;
- *closed*.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Final, final

import msgspec

from ffcompletion.backends.postgres.spans import Spans, run_from, union, without

__all__ = ["Attach", "Read", "Standing", "StreamState"]

_UNLIMITED: Final = (1 << 63) - 1
# Close enough to the live end to attach: less than a page, so that the buffer is not at risk meanwhile.
_JOIN_WITHIN: Final = 1_000


# Pending spans this close are read together, with so many ids in between at the most: a question costs as much as many rows.
_APART: Final = 1_000
_BETWEEN: Final = 5_000


class StreamState(StrEnum):
    """What a stream is doing."""

    CATCHING_UP = "catching up"
    JOINING = "joining"
    LIVE = "live"
    OVERFLOWED = "overflowed"
    CLOSED = "closed"


@final
class Read(msgspec.Struct, frozen=True):
    """Read the rows of ``(after, upto]``, but for those in ``holes``. No payload's cursor may go beyond ``limit``."""

    after: int
    upto: int
    limit: int
    holes: Spans = []
    """What is somebody else's to bring, or was brought: pending spans that lie close together are read as one."""


@final
class Missing(msgspec.Struct, frozen=True):
    """Ids that were missing in a page, where nobody had looked."""

    spans: Spans = []
    gaps: Spans = []
    """Those of which the hub brings the rows, from now on. The others have come meanwhile, and are to be read."""


@final
class Attach(msgspec.Struct, frozen=True):
    """Attach to the hub, and say so with ``attached``."""


@final
class Standing:
    """One stream's state. Ids are event ids of the outbox."""

    __slots__ = ("_at_joining", "_below", "_pages", "_pending", "_reached", "_read_to", "generation", "state")

    def __init__(self, after: int) -> None:
        """``after``: where to resume; everything up to there has been yielded."""
        self.state: StreamState = StreamState.CATCHING_UP
        self.generation: int = 0
        """Changes when the history does: what was read under another one has to be read again."""
        self._read_to = after
        self._pending: Spans = []
        self._below = 0
        # The hub's highest id and its gaps at the moment of attaching.
        self._at_joining: tuple[int, Spans] = (0, [])
        # For each page that has been read and not wholly taken, the id below its first row not taken.
        self._pages: deque[int] = deque()
        self._reached = after

    # ── where to resume ──────────────────────────────────────────────────────────────────────────────────────────

    def resume_position(self, live: int | None) -> int:
        """The highest id up to which nothing is left to hand over: resuming there yields everything else.

        ``live``: everything up to this id that the hub has brought was taken from the buffer; None where the hub
        brings nothing (detached) and nothing of it waits.

        It is the minimum over all that is outstanding, wherever that lies, and never goes back: once nothing below an
        id is left, nothing will ever be, because ids are only passed when no transaction can own them any more.
        """
        if self.state is not StreamState.CLOSED:
            bounds = list(self._pages)
            if self._pending:
                bounds.append(self._pending[0][0] - 1)
            if live is not None:
                bounds.append(live)
            if self.state not in _ATTACHED:
                bounds.append(self._read_to)
            self._reached = max(self._reached, min(bounds))
        return self._reached

    # ── what to do next ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def reads(self) -> bool:
        """Whether stored rows are still to be read."""
        return self.state is StreamState.CATCHING_UP or self.state is StreamState.JOINING

    @property
    def catching_up(self) -> bool:
        """Whether anything comes, or is still to come, from stored rows."""
        return self.state is not StreamState.CLOSED and (self.state is not StreamState.LIVE or bool(self._pages))

    def unread(self, high: int) -> int:
        """How many ids up to ``high``, the hub's highest, are still to be read from what is stored."""
        if self.state is StreamState.CLOSED:
            return 0
        rest = 0 if self.state in _ATTACHED else max(0, high - self._read_to)
        return rest + sum(last - low + 1 for low, last in self._pending)

    @property
    def read_to(self) -> int:
        """Up to here everything that is stored was read, but for what is pending."""
        return self._read_to

    def next_step(self, watermark: int, settled: int | None = None) -> Read | Attach | None:
        """The next step of catching up, given the watermark of the hub's reader, and how far beyond ``read_to`` it has no
        gap. None: there is none.

        Finding nothing pending while joining makes the stream live.
        """
        if self.state is StreamState.CATCHING_UP:
            if self._pending and self._pending[0][0] <= watermark:
                return self._read_pending(watermark, _UNLIMITED)
            upto = watermark if settled is None else settled
            if self._read_to < upto - _JOIN_WITHIN:
                return Read(self._read_to, upto, self._pending[0][0] - 1 if self._pending else _UNLIMITED)
            return Attach()
        if self.state is not StreamState.JOINING:
            return None
        if self._pending:
            high, at_joining = self._at_joining
            return self._read_pending(high, at_joining[0][0] - 1 if at_joining else _UNLIMITED)
        self.state = StreamState.LIVE
        # Not needed any more, and there may be many.
        self._at_joining = (self._at_joining[0], [])
        return None

    def _read_pending(self, upto: int, limit: int) -> Read:
        low, high = run_from(self._pending, _APART, _BETWEEN)
        high = min(high, upto)
        return Read(low - 1, high, limit, without([(low, high)], self._pending))

    # ── what happened ────────────────────────────────────────────────────────────────────────────────────────────

    def attached(self, high: int, gaps: Spans, below: Sequence[int] = ()) -> None:
        """The hub brings everything above ``high``, and whatever appears in ``gaps``. ``below``: what it has brought that was
        no gap, from the beginning; what of it came while this stream was detached is to be read.
        """
        missed = [(event_id, event_id) for event_id in sorted({*below[self._below :]})]
        self._pending, self._below = union(self._pending, missed), len(below)
        rest = [(self._read_to + 1, high)] if self._read_to < high else []
        self._pending = without(union(self._pending, rest), gaps)
        self._read_to = max(self._read_to, high)
        self._at_joining = (high, gaps)
        self.state = StreamState.JOINING

    def attached_now(self, high: int, below: int = 0) -> None:
        """From now: the hub brings all there will be, and nothing that is stored was asked for. ``below``: how much that was
        no gap it has brought.
        """
        self._below = below
        self._read_to = high
        self.state = StreamState.LIVE

    def page_read(self, step: Read, reached: int, *, rows: bool, missing: Missing | None = None) -> None:
        """The rows that a step asked for have been read up to here; ``rows``: there are any, to be taken. ``missing``: what
        nobody knew to be missing there.
        """
        # Its holes may have become pending meanwhile: who overflows is brought nothing any more.
        # Those of them alone that lie there: there may be very many.
        at = bisect_right(self._pending, reached, key=itemgetter(0))
        self._pending[:at] = without(self._pending[:at], without([(step.after + 1, reached)], step.holes))
        if step.after == self._read_to:
            self._read_to = reached
        if rows:
            self._pages.append(step.after)
        if missing is None or not missing.spans:
            return
        if self.state is StreamState.JOINING:
            self._at_joining = (self._at_joining[0], union(self._at_joining[1], missing.gaps))
            self._pending = union(self._pending, without(missing.spans, missing.gaps))
        else:
            self._pending = union(self._pending, missing.spans)

    def page_taken(self, upto: int | None) -> None:
        """The oldest page's rows up to this id were taken; None: all of them."""
        if upto is None:
            self._pages.popleft()
        else:
            self._pages[0] = upto

    def overflowed(self, high: int, gaps: Spans, below: int = 0) -> bool:
        """The hub's batch did not fit; detached. ``gaps``: those still open, and the rows of the batch in hand. ``below``: as
        for ``attached_now``.

        True: what is buffered is to be dropped, for older rows come first. It is pending again.
        """
        if self.state is StreamState.JOINING:
            self._read_to, at_joining = self._at_joining
            self._pending = union(self._pending, at_joining)
            self.state = StreamState.CATCHING_UP
            return True
        self._read_to, self._below = high, below
        self._pending = union(gaps, [])
        self.state = StreamState.OVERFLOWED
        return False

    def drained(self) -> None:
        """Everything that was buffered before the overflow has been taken."""
        if self.state is StreamState.OVERFLOWED:
            self.state = StreamState.CATCHING_UP

    def rewound(self, high: int) -> bool:
        """The server's history was replaced by one that knows ids up to ``high``; later ones are given anew.

        True: detach and drop what is buffered, to be read again. What lies beyond ``high`` is nothing that is pending.
        """
        self.generation += 1
        joining = self.state is StreamState.JOINING
        if joining:
            self.state = StreamState.CATCHING_UP
            self._read_to, gaps = self._at_joining
            self._pending = union(self._pending, gaps)
        self._read_to = min(self._read_to, high)
        self._pending = [(low, min(last, high)) for low, last in self._pending if low <= high]
        self._pages = deque(min(floor, high) for floor in self._pages)
        self._reached = min(self._reached, high)
        return joining

    def closed(self, live: int | None) -> None:
        """Nothing happens any more; the position stays where it is."""
        self.resume_position(live)
        self.state = StreamState.CLOSED


_ATTACHED: Final = (StreamState.JOINING, StreamState.LIVE)
