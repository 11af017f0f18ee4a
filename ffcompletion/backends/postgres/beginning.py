"""Where whoever reads the outbox begins: at the newest row, with what transactions under way may own below it held as gaps."""

from __future__ import annotations

import time
from typing import final

from ffcompletion.backends.postgres.ahead import AHEAD_KEPT, Ahead
from ffcompletion.backends.postgres.gaps import LOOK_BACK, GapTracker
from ffcompletion.backends.postgres.history import History
from ffcompletion.backends.postgres.numbering import Numbering
from ffcompletion.backends.postgres.queries import Queries
from ffcompletion.backends.postgres.session import Session
from ffcompletion.backends.postgres.spans import missing

__all__ = ["Beginning"]

# Rows per read.
_PAGE = 2_000


@final
class Beginning:
    """Asks of the outbox what there is. ``ahead`` learns of rows whose ids have not been given out."""

    def __init__(self, queries: Queries, ahead: Ahead) -> None:
        self._queries = queries
        self._numbering = Numbering(queries)
        self._ahead = ahead

    async def newest(self, session: Session) -> int:
        """The highest visible id; in an outbox that was emptied, the last id given out, where that may be seen.

        Otherwise everything trimmed would be a gap, and cursors would stand at the beginning until it was settled.
        """
        rows = await session.fetch(self._numbering.high())
        # After that, so that it includes what was seen.
        issued = (await session.sequence()).issued
        if rows and issued and rows[0][0] > issued:
            self._ahead.tell(rows[0][0], issued)
            ahead = await session.fetch(self._queries.ids(), (issued, rows[0][0], AHEAD_KEPT))
            self._ahead.remember(row[0] for row in ahead)
            rows = await session.fetch(self._numbering.high_upto(), (issued,))
        return rows[0][0] if rows else max(0, issued or 0)

    async def same_upto(self, session: Session, history: History, high: int) -> int:
        """Up to where it is the history that was read, as far as that is remembered; ``high`` was the highest id."""
        newest = await self.newest(session)
        comparison = history.compare(newest, high)
        while (after := comparison.after) is not None:
            comparison.page(await session.read(self._queries.page(), (after, _PAGE)), _PAGE)
        if not comparison.same_upto and (ids := history.anchored(min(newest, high))):
            return history.same_anchor(await session.read(self._queries.picked(), (ids,)))
        return comparison.same_upto

    async def tracker(self, session: Session) -> GapTracker:
        """One that begins at the newest row. LISTEN must be live: what commits after this is announced or visible."""
        now = time.monotonic()
        start = await self.newest(session)
        made = GapTracker(start)
        owners = await session.owners() if start else ()
        if owners or (start and session.in_recovery):
            # Somebody is writing: ids below the start may belong to them, far below where many were given out and not used.
            visible = await session.fetch(self._numbering.downwards(), (start, LOOK_BACK), read=True)
            floor = max(0, visible[-1][0]) if len(visible) == LOOK_BACK else 0
            spans = missing([floor, *(row[0] for row in reversed(visible) if row[0] > floor), start + 1])
            lowest = not floor and bool(spans) and spans[0][0] == 1
            if lowest:
                floor = max(0, min(spans[0][1], start - LOOK_BACK))
            made.assume(spans, now, floor, owners, lowest=lowest)
        return made
