"""Rows with ids that the outbox's sequence has not given out.

The sequence numbers the rows, and nobody else; but whoever may write the column can write any id. A row with an id that the
sequence has not given out is not looked at until it has: it would put the position where nobody looks for what comes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from heapq import nsmallest
from typing import Final, final

from ffcompletion.foreign.logs import logger

__all__ = ["AHEAD_KEPT", "Ahead"]

_log: Final = logger("ffcompletion.postgres")

AHEAD_KEPT: Final = 1_000
"""How many of such ids are remembered."""


@final
class Ahead:
    """Ids that rows bore before the sequence had come to them, so that it gives each to one more row. Bounded: the
    lowest, which are the first to be given out; the others are met again until then.
    """

    __slots__ = ("_reported", "_rows")

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._reported = False

    def __bool__(self) -> bool:
        return bool(self._rows)

    def tell(self, event_id: int, issued: int) -> None:
        """Of the first row with an id beyond what the sequence has given out, once."""
        if not self._reported:
            self._reported = True
            _log.warning(
                "the outbox holds a row with id %d, and its sequence has given out ids up to %d: such rows are not looked"
                " at before the sequence has passed them (who may write event_id? was it restored without its sequence?)",
                event_id,
                issued,
            )

    def remember(self, ids: Iterable[int]) -> None:
        """These are; an id that two rows bear comes twice."""
        for event_id, rows in Counter(ids).items():
            self._rows[event_id] = max(rows, self._rows.get(event_id, 0))
        if len(self._rows) > AHEAD_KEPT:
            self._rows = {event_id: self._rows[event_id] for event_id in nsmallest(AHEAD_KEPT, self._rows)}

    def forget(self, upto: int) -> None:
        """Up to here all of them have been given out, and those rows been decided."""
        if self._rows:
            self._rows = {event_id: rows for event_id, rows in self._rows.items() if event_id > upto}

    def awaited(self, ids: Iterable[int]) -> Collection[int]:
        """Of the ids of some rows, those of which the row that the sequence gave them to is not among these."""
        if not self._rows:
            return ()
        met = Counter(event_id for event_id in ids if event_id in self._rows)
        return {event_id for event_id, rows in met.items() if rows <= self._rows[event_id]}
