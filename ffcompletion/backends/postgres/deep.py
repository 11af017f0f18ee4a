"""Ids far below where a reader began, at which it did not look: who was under way then may own some. Pure: no I/O, no clock.

What is announced there is believed, up to a bound. A stream that resumes down there reads what is stored, and finds what
is missing: as long as somebody is under way who was then, those are gaps like any other.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Final, final

from ffcompletion.backends.postgres.gap import Gap
from ffcompletion.backends.postgres.spans import Spans, without

__all__ = ["Deep"]

# Ids that are looked for because they were announced.
_BELIEVED: Final = 50_000
# Ids that are remembered as handed out; with more of them no announcement is believed any more.
_EARLY: Final = 100_000


@final
class Deep:
    """``floor``: nobody looked at or below it; 0: there is nothing."""

    __slots__ = ("_believed", "_early", "_under_way", "expected", "floor")

    def __init__(self, floor: int = 0, owners: Collection[str] | None = None) -> None:
        """``owners``: who was under way; None: that is to be asked."""
        self.floor: int = floor
        self._under_way = Gap(array("q", [0]), array("q", [0]), 0.0, None if owners is None else frozenset(owners))
        # Announced and about to be looked for, or handed out already.
        self.expected: set[int] = set()
        self._early: set[int] = set()
        self._believed = 0

    def copy(self) -> Deep:
        """One that goes on by itself."""
        other = Deep(self.floor, self._under_way.owners)
        other.expected, other._early, other._believed = set(self.expected), set(self._early), self._believed
        return other

    @property
    def owned(self) -> int:
        """Ids up to here may still be of somebody who was under way; 0: none."""
        return 0 if self._under_way.owners == frozenset() else self.floor

    def narrow(self, current: frozenset[str], prepared: frozenset[str]) -> None:
        """These hold a write lock now, and these of them are prepared."""
        self._under_way.narrow(current, prepared)

    def forget_owners(self) -> None:
        """Names mean nothing any more; unless there are none."""
        if self._under_way.owners != frozenset():
            self._under_way.forget_owners()

    def announced(self, ids: Collection[int]) -> None:
        """These are to be looked for, as far as they are believed."""
        if self.floor:
            found = sorted({event_id for event_id in ids if 0 < event_id <= self.floor} - self._early)
            self.expected = set(found[: max(0, _BELIEVED - self._believed)])

    def expects(self, event_id: int) -> bool:
        """Whether it was announced, believed, and not handed out."""
        return event_id in self.expected

    def handed_out(self, event_id: int, *, missed: bool) -> None:
        """It is; ``missed``: it was a gap."""
        if event_id > self.floor:
            return
        self._believed += not missed
        self.expected.discard(event_id)
        self._early.add(event_id)
        if len(self._early) > _EARLY:
            self._early.clear()
            self._believed = _BELIEVED

    def still_missing(self, spans: Spans) -> Spans:
        """Of spans that were missing a moment ago, what has not been handed out since."""
        return without(spans, [(event_id, event_id) for event_id in sorted(self._early)]) if self._early else spans

    def rewind(self, high: int) -> None:
        """The server's history was replaced by one that knows ids up to ``high`` only."""
        self.floor = min(self.floor, high)
        self._early = {event_id for event_id in self._early if event_id <= high}
