"""What a stream needs of the outbox: where its one reader stands, and pages of stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ffcompletion.backends.postgres.gaps import GapTracker
from ffcompletion.backends.postgres.pages import Piece
from ffcompletion.backends.postgres.states import Missing, Read
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.delivery.batch import Batch
from ffcompletion.delivery.buffer import Room
from ffcompletion.delivery.hub import Member, Selector

__all__ = ["Outbox", "Pages", "StoredPage", "Stream", "for_stream"]


class Stream(Member, Protocol):
    """A stream, as whoever hands out rows sees it."""

    def fall_behind(self, in_hand: Sequence[int], /) -> None:
        """Rows that are being handed out, and what follows, are not handed to it: it reads what is stored."""
        ...


def for_stream(
    payloads: Sequence[CompletionPayload], batch: Batch, after: int | None
) -> tuple[Sequence[CompletionPayload], Sequence[int]]:
    """What of a batch, of which it admits these, is for a stream that resumed there, and the ids; None is from now. What
    lies far below, and above that, it reads, or has read.
    """
    if after is None or not batch.beneath:
        return payloads, batch.ids
    mine = [payload for payload in payloads if batch.beneath[payload.execution_id] <= after]
    return mine, [event_id for event_id in batch.ids if event_id <= after]


class Outbox(Protocol):
    """Where the one reader of the outbox stands; or, for streams that need lookups, what follows behind it."""

    tracker: GapTracker

    def skipped(self, malformed: int, /) -> None:
        """Rows that make no completion were met."""
        ...


class StoredPage(Protocol):
    """Rows that were read and are decoded as they are taken; its length is how many are left."""

    @property
    def reached(self) -> int:
        """The page holds everything up to this id."""
        ...

    @property
    def bytes(self) -> int:
        """Of the results in it."""
        ...

    def __len__(self) -> int: ...

    def missed(self) -> Missing:
        """What the hub did not know to be missing; from now on it does, and no cursor of the page goes beyond the first."""
        ...

    def take(self, most: int, /) -> Piece:
        """The next of them, so many at the most."""
        ...

    def limit_cursors(self, limit: int, /) -> None:
        """No payload taken from now on may have a cursor beyond this."""
        ...


class Pages(Protocol):
    """Reads stored rows for one stream."""

    async def read(self, selector: Selector, step: Read, room: Room, /) -> StoredPage | None:
        """The rows that a step asks for, as many as there is room for; None if the stream was closed meanwhile.

        A page that has no rows and has reached nothing: the next result needs more room.
        """
        ...

    def finish(self) -> None:
        """No read after this one."""
        ...

    def abort(self) -> None:
        """Make a read that is under way fail at once."""
        ...
