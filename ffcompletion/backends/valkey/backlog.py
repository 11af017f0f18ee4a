"""What one overflowing stream has still to get from the terminal index. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final

from ffcompletion.backends.valkey.reconciliation import SLACK_MS, Announced, Entry, latest
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["Backlog"]


# Entries that are looked into at once for a stream that has room for fewer.
_LOOKED_INTO: Final = 20_480


@final
class Backlog:
    """Everything since a score, except what the stream was given before it overflowed."""

    __slots__ = ("_announced", "_delivered", "_fresh", "look_into", "since_ms", "skip")

    def __init__(self, since_ms: int, announced: Sequence[Announced]) -> None:
        """``announced``: what the stream has been told of, of all that may lie behind that score."""
        # By execution, but for what has come since the last page: a page is not to look at all of it again.
        self._announced: dict[str, int] = {}
        self._fresh = list(announced)
        self._delivered: dict[str, int] = {}
        self.since_ms: int = since_ms
        """The score from which the next page is to be read, inclusive."""
        self.look_into: int = 0
        """How many entries are to be looked into next, however little room the stream has."""
        self.skip: Mapping[str, int] = {}
        """How many entries of that score the stream has been given of each key, where a page does not hold all of them."""

    def missed(self, payloads: Iterable[CompletionPayload]) -> None:
        """These were for the stream, and it could not take them."""
        times = [payload.produced_at_ms for payload in payloads if payload.produced_at_ms]
        self._move(min([self.since_ms, *times]))

    def pending(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of the entries that the stream has not had, in their order."""
        announced, delivered = self._announced, self._delivered
        announced.update(latest(self._fresh))
        self._fresh.clear()
        pending: list[Entry] = []
        for execution_id, score in entries:
            at = announced.get(execution_id)
            if delivered.get(execution_id) != score and (at is None or score > at + SLACK_MS):
                pending.append((execution_id, score))
        return pending

    def received(self, announced: Iterable[Announced]) -> None:
        """The stream has got these announcements after all."""
        self._fresh += announced

    def delivered(self, entries: Iterable[Entry], upto_ms: int) -> None:
        """The stream has got these, and everything up to a score."""
        self._move(max(self.since_ms, upto_ms))
        self._delivered.update(entries)
        self._delivered = {id_: score for id_, score in self._delivered.items() if score >= self.since_ms}

    def looked(self, count: int, found: int) -> None:
        """Of so many entries so many were for the stream. Those behind which there is nothing take no room, so where
        there are many of them more are looked into at once.
        """
        self.look_into = min(2 * count, _LOOKED_INTO) if found * 2 <= count else 0

    def lower(self, since_ms: int) -> None:
        """The server's clock went back: what it writes now has lower scores."""
        self._move(min(self.since_ms, since_ms))

    def _move(self, since_ms: int) -> None:
        if since_ms != self.since_ms:
            self.since_ms, self.skip = since_ms, {}
