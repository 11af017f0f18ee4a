"""Whether the outbox is still the one that was read: recognised by what it is, and compared by what it holds. Pure.

A promoted replica lacks the newest rows, a restored dump many, a truncated outbox all of them; each gives out ids again
that named something else. Ids alone do not tell; so the sequence is looked at, which never goes back by itself, and the
rows that were handed out last are compared with those that bear their ids now.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import Final, final

import msgspec
from typing_extensions import override

from ffcompletion.backends.postgres.rows import Row

__all__ = ["Comparison", "History", "Identity", "Issue", "Mark", "anchors"]

# Rows by which a replica may lag when it is promoted, and still be compared with what was handed out.
_REMEMBERED: Final = 10_000

_MARK: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?::(\d+)=(\S+))?")


@final
class Identity(msgspec.Struct, frozen=True):
    """What a server, a database and an outbox are known by. Equal: the same history, unless the sequence went back."""

    timeline: str = ""
    system: str = ""
    database: int = 0
    outbox: int = 0
    sequence: int = 0
    """The sequence's file: another one once it was restarted by TRUNCATE."""


@final
class Issue(msgspec.Struct, frozen=True):
    """What the outbox's sequence has given out, by now; and which sequence of which outbox that is."""

    issued: int | None = None
    """The last id that was given out, 0 if none; None where it may not be seen."""
    outbox: int = 0
    file: int = 0


@final
class Mark(msgspec.Struct, frozen=True):
    """What is kept beside a stored cursor, to know its history again."""

    database: int
    outbox: int
    sequence: int
    witness: tuple[int, str] | None = None
    """The id of a row at or before the cursor, and whose completion it was."""

    @override
    def __str__(self) -> str:
        row = "" if self.witness is None else ":{}={}".format(*self.witness)
        return f"{self.database}.{self.outbox}.{self.sequence}{row}"

    @classmethod
    def of(cls, identity: Identity, witness: tuple[int, str] | None) -> Mark:
        """Of the outbox that is read."""
        return cls(identity.database, identity.outbox, identity.sequence, witness)

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """None for what is none."""
        found = _MARK.fullmatch(text)
        if found is None:
            return None
        witness = None if found[4] is None else (int(found[4]), found[5])
        return cls(int(found[1]), int(found[2]), int(found[3]), witness)

    def same(self, now: Mark, row: str | None) -> bool | None:
        """Whether it is of the history that is there ``now``; ``row``: whose completion bears the witness's id now, None
        where there is no such row. None: it cannot be told.
        """
        if self.witness is not None and row is not None:
            return row == self.witness[1]
        if (self.database, self.outbox, self.sequence) == (now.database, now.outbox, now.sequence):
            return True
        # An ALTER of the sequence looks like one that was restarted, if there is no row to tell.
        return None if self.witness is None else False


@final
class History:
    """What was handed out last, under which ids."""

    def __init__(self) -> None:
        self._recent: deque[tuple[Sequence[int], Sequence[Row]]] = deque()
        self._rows = 0
        self._anchors: dict[int, str | None] = {}
        self._known: tuple[int, str] | None = None
        self._due_at = 0.0
        self.doubtful: bool = False
        """Something says that the outbox is not the one it was: it is to be compared."""

    def begin(self, start: int, rows: Sequence[Row]) -> None:
        """Nothing was handed out yet; these are the rows at the start and its ``anchors``, in any order."""
        self.forget()
        newest = [row for row in rows if row[0] == start]
        self.remember([row[0] for row in newest], newest)
        self._anchors = {row[0]: row[1] for row in rows}

    def remember(self, ids: Sequence[int], rows: Sequence[Row]) -> None:
        """These were handed out."""
        self._recent.append((ids, rows))
        self._rows += len(ids)
        while self._rows - len(self._recent[0][0]) >= _REMEMBERED:
            self._rows -= len(self._recent.popleft()[0])

    def witness(self, upto: int) -> tuple[int, str] | None:
        """Id and execution of the newest row up to there that is remembered: what this history is known again by."""
        for ids, rows in reversed(self._recent):
            at = bisect_right(ids, upto)
            if at and (name := rows[at - 1][1]) is not None:
                return ids[at - 1], name
        return None

    def forget(self, after: int = 0) -> None:
        """What was handed out after this id is of no interest; it was compared."""
        cut = [(bisect_right(ids, after), ids, rows) for ids, rows in self._recent]
        self._recent = deque((ids[:at], rows[:at]) for at, ids, rows in cut if at)
        self._rows = sum(len(ids) for ids, _ in self._recent)
        self._anchors = {event_id: name for event_id, name in self._anchors.items() if event_id <= after}
        self._known, self._due_at = None, 0.0
        self.doubtful = False

    def due(self, now: float, every_s: float, upto: int) -> int | None:
        """The id of a row to look at again; None where it is not time, or none is known: then the newest up to there is,
        from now on.

        An outbox that is emptied, and its sequence set back by hand, shows nothing else once as many ids have been given
        out again.
        """
        if now < self._due_at:
            return None
        self._due_at = now + every_s
        if self._known is None:
            self.newest(upto)
            return None
        return self._known[0]

    def newest(self, upto: int) -> int | None:
        """The id of the newest row up to there, to be looked at again; None where none is known."""
        self._known = self.witness(upto)
        return None if self._known is None else self._known[0]

    def replaced_at(self, known: int, rows: Sequence[Row], upto: int) -> bool:
        """Whether that row is another than it was; the next to look at is the newest up to there."""
        if self._known is not None and any(row[0] == known and row[1] != self._known[1] for row in rows):
            self.doubtful = True
        self._known = self.witness(upto)
        return self.doubtful

    def replaced_by(self, sequence: Issue, identity: Identity, high: int) -> bool:
        """Whether the sequence tells of another history than that in which ``high`` was seen."""
        another = (sequence.outbox, sequence.file) != (identity.outbox, identity.sequence)
        if another or (sequence.issued is not None and sequence.issued < high):
            self.doubtful = True
        return self.doubtful

    def compare(self, newest: int, high: int) -> Comparison:
        """Against an outbox whose highest visible id is ``newest``; ``high`` was the highest."""
        known = {event_id: row[1] for ids, rows in self._recent for event_id, row in zip(ids, rows, strict=True)}
        return Comparison(known, newest, high)

    def anchored(self, upto: int) -> list[int]:
        """The ids of the rows, up to there, to pass to ``same_anchor``: where nothing that was handed out is the same."""
        return [event_id for event_id in self._anchors if event_id <= upto]

    def same_anchor(self, rows: Sequence[Row]) -> int:
        """The highest below which none is another than it was; 0: there is none."""
        same = 0
        for row in sorted(rows, key=itemgetter(0)):
            if self._anchors.get(row[0]) != row[1]:
                break
            same = row[0]
        return same


def anchors(start: int) -> list[int]:
    """The start, and ids further and further below it, by which a copy is known that lacks all that was read since."""
    return [start, *(start - 4**n for n in range(start.bit_length()) if 4**n < start)]


@final
class Comparison:
    """Page by page, which of the rows that are remembered are still the same."""

    def __init__(self, known: dict[int, str | None], newest: int, high: int) -> None:
        self._known = known
        self._end = min(newest, high)
        first = min(known, default=0)
        self.same_upto: int = 0
        """Up to here it is the history that was read; 0 if none of it is. Not up to the first row that differs: what lies
        between may be of somebody who has not committed yet."""
        self.after: int | None = first - 1 if known and first <= self._end else None
        """Read the rows after this id, and pass them to ``page``; None: enough is known."""

    def page(self, rows: Sequence[Row], limit: int) -> None:
        """These follow, at most ``limit``."""
        self.after = rows[-1][0] if len(rows) >= limit and rows[-1][0] < self._end else None
        for row in rows:
            if row[0] in self._known:
                if self._known[row[0]] != row[1]:
                    self.after = None
                    return
                self.same_upto = row[0]
