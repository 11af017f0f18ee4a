"""What one Valkey stream has had and still has to get, as named states. Pure: no I/O, no clock, no buffer.

- *live*: takes what is announced;
- *overflowed*: a batch did not fit. It takes nothing from the hub; what it missed is read from the terminal index, as its
  consumer makes room;
- *joining*: the last of that is being read, and it takes what is announced again meanwhile;
- *closed*.

Where the index may not be read it stays live, and what does not fit is lost.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, final

import msgspec

__all__ = ["NOTHING_DENIED", "Counters", "Denied", "Standing", "StreamState"]


@final
class Counters:
    """What a backend has counted since it was made, whatever has come and gone meanwhile. They never run backwards."""

    __slots__ = ("dropped", "interruptions", "malformed", "received", "reconciled")

    def __init__(self) -> None:
        self.received: int = 0
        self.malformed: int = 0
        self.dropped: int = 0
        self.interruptions: int = 0
        self.reconciled: int = 0


class StreamState(StrEnum):
    """What a stream is doing."""

    LIVE = "live"
    OVERFLOWED = "overflowed"
    JOINING = "joining"
    CLOSED = "closed"


@final
class Denied(msgspec.Struct, frozen=True):
    """Completions that were announced and did not pass: by the filter, or because nothing was there to decide by."""

    filtered: int = 0
    undecided: int = 0

    def plus(self, other: Denied) -> Denied:
        """Both together."""
        return (
            self
            if other is NOTHING_DENIED
            else Denied(self.filtered + other.filtered, self.undecided + other.undecided)
        )

    def less(self, other: Denied) -> Denied:
        """Without those, and never below nothing."""
        return Denied(max(0, self.filtered - other.filtered), max(0, self.undecided - other.undecided))


NOTHING_DENIED: Final = Denied()


@final
class Standing:
    """One stream's state, and the counters that depend on it."""

    __slots__ = ("_missed", "_missed_denied", "_overflowing", "denied", "lost", "overflows", "state")

    def __init__(self) -> None:
        # Of what the index has still to bring, what was announced: it counts once it is read, or once it is lost.
        self._missed = 0
        self._missed_denied = Denied()
        self._overflowing = False
        self.state: StreamState = StreamState.LIVE
        self.denied: Denied = Denied()
        self.lost: int = 0
        self.overflows: int = 0

    @property
    def takes(self) -> bool:
        """Whether what is announced is for its buffer."""
        return self.state in (StreamState.LIVE, StreamState.JOINING)

    @property
    def behind(self) -> bool:
        """Whether the index has still something for it."""
        return self.state in (StreamState.OVERFLOWED, StreamState.JOINING)

    @property
    def missed_count(self) -> int:
        """How many the index has still to bring, of those that were announced."""
        return self._missed

    def took(self, denied: Denied) -> None:
        """A batch fitted; what of it did not pass."""
        self._overflowing = False
        self.denied = self.denied.plus(denied)

    def overflowed(self, *, recoverable: bool) -> None:
        """A batch did not fit. ``recoverable``: what is missed now can be read from the index."""
        if not self._overflowing:
            self._overflowing = True
            self.overflows += 1
        if recoverable and self.state is not StreamState.CLOSED:
            self.state = StreamState.OVERFLOWED

    def missed(self, count: int, denied: Denied) -> None:
        """So many completions of a batch were for it, and it could not take them."""
        if self.state is StreamState.OVERFLOWED:
            self._missed += count
            self._missed_denied = self._missed_denied.plus(denied)
        else:
            self.lost += count
            self.denied = self.denied.plus(denied)

    def joining(self) -> None:
        """It takes what is announced, from now on; the last of what it missed is being read."""
        if self.state is StreamState.OVERFLOWED:
            self.state = StreamState.JOINING

    def recovered(self, count: int, denied: Denied, *, all_of_it: bool) -> None:
        """The index brought so many, and they fitted. ``all_of_it``: nothing is left there for it."""
        self.denied = self.denied.plus(denied)
        if all_of_it and self.state is StreamState.JOINING:
            self._missed, self._missed_denied = 0, Denied()
            self.state = StreamState.LIVE
            return
        self._missed = max(0, self._missed - count)
        self._missed_denied = self._missed_denied.less(denied)
        self.left()

    def left(self) -> None:
        """Joining came to nothing: what is announced is not for its buffer again."""
        if self.state is StreamState.JOINING:
            self.state = StreamState.OVERFLOWED

    def unrecoverable(self) -> None:
        """The index can be read no more: what is missing is lost."""
        self.lost += self._missed
        self.denied = self.denied.plus(self._missed_denied)
        self._missed, self._missed_denied = 0, Denied()
        if self.behind:
            self.state = StreamState.LIVE

    def closed(self) -> None:
        """For good."""
        self.state = StreamState.CLOSED
