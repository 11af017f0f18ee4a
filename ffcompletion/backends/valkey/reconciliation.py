"""Which entries of the terminal index nobody was told of: what pub/sub forgot, and what it never hears. No I/O, no clock.

The index holds one entry for each finished execution, scored with the server's time of its completion; the entry is
written before the announcement is sent. So an announcement that arrived before the index was read explains the
entry, if the entry is not younger; any other entry is a completion that nobody was told of.

A completion is an execution *and* a score: an execution may be replayed and finish again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple, final

import msgspec

from ffcompletion.contract.payload import CompletionPayload

__all__ = ["SLACK_MS", "Announced", "Candidate", "Entry", "Pace", "Reconciliation", "latest"]

# What rounding and two clocks running apart for a minute may come to.
SLACK_MS: Final = 5
# Entries of the overlap that are remembered, some 100 MB: beyond that some are found, and handed out, once more.
_MOST_KNOWN: Final = 500_000
# What an estimate of the server's time may fall behind it until a question has reached it.
_ESTIMATED_MS: Final = 1_000
# How long after a pass an announcement may still be on its way.
_LATE_MS: Final = 2_000

Entry = tuple[str, int]
"""An execution's id and its score, in ms."""


@final
class Announced(msgspec.Struct, frozen=True, gc=False):
    """Announcements that arrived together. Many of them are kept, so their ids are one text."""

    at_ms: int
    """When they arrived: server time, rather too late than too early."""
    count: int
    text: str

    @classmethod
    def of(cls, at_ms: int, payloads: Sequence[CompletionPayload]) -> Announced:
        """That these were announced."""
        # No id holds a line break.
        return cls(at_ms, len(payloads), "\n".join([payload.execution_id for payload in payloads]))

    @property
    def ids(self) -> Sequence[str]:
        """Their executions, in order."""
        return self.text.split("\n") if self.count else ()


@final
class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An entry that no announcement explains."""

    execution_id: str
    score_ms: int
    doubtful: bool = False
    """It was announced, but earlier than the score says, by as much as clocks may differ: news only if replayed since."""
    doubtful_if_skipped: bool = False
    """The same, if the engine's clock wrote the score."""

    def is_doubtful(self, outcome: str | None) -> bool:
        """The same, by the outcome that the record has."""
        return self.doubtful or (self.doubtful_if_skipped and outcome == "skipped")


class ServerTime(NamedTuple):
    """What a server's clock said: TIME, which was read at some moment between two of ours."""

    server_ms: int
    sent_at: float
    """Seconds, monotonic."""
    answered_at: float
    """Seconds, monotonic."""
    apart_ms: int | None = None
    """By how much the clocks of those that hold the index differ, at the most; None: that is not known."""


@final
class Pace:
    """When passes began, and how long one takes. Times are seconds, monotonic."""

    __slots__ = ("_before_s", "_last_s", "began_at")

    def __init__(self, now: float) -> None:
        self._before_s = self._last_s = 0.0
        self.began_at: float = now
        """When the last one did, whatever came of it."""

    def begin(self, now: float) -> None:
        """A pass begins."""
        self.began_at = now

    def end(self, now: float) -> None:
        """It has come to its end."""
        self._before_s, self._last_s = self._last_s, now - self.began_at

    @property
    def takes_s(self) -> float:
        """The shorter of the last two: a single long one waited for a server that was away, and had no more to read."""
        return min(self._before_s, self._last_s)


@final
class Reconciliation:
    """What is known, kept from pass to pass. Bounded: entries of the overlap, and ``limit`` announcements.

    Scores are the server's time, except those of skipped executions, which are the engine's; and in a cluster each
    server has its own. ``overlap_ms`` is how far such clocks may lie apart: so much is read again in every pass.
    ``clocks_ms``: the same for those of the servers, unless it is known better; 0 where there is one.
    """

    __slots__ = (
        "_announced", "_apart_before", "_apart_ms", "_batches", "_clocks", "_gained", "_highest_ms", "_horizon", "_index", "_indexed", "_known", "_late",
        "_late_until", "_limit", "_overlap", "_server_time", "_settled_ahead", "_taken", "settled_ms", "since_ms", "stepped_back",
    )  # fmt: skip

    def __init__(self, *, overlap_ms: int, limit: int, clocks_ms: int = 0) -> None:
        self._overlap = overlap_ms
        self._clocks = self._apart_ms = self._apart_before = clocks_ms
        # By how much the server's clock has gone on by more than ours since the pass before: so much too early may what
        # was announced meanwhile have been timed.
        self._gained = 0
        self._limit = limit
        self._batches: deque[Announced] = deque()
        self._announced = 0
        self._taken = 0
        self._index: dict[str, int] = {}
        self._indexed = 0
        self._known: dict[str, int] = {}
        self._late: set[str] = set()
        self._late_until = 0
        # When this pass began, or the last one.
        self._server_time = ServerTime(0, 0.0, 0.0)
        self._highest_ms = 0
        self._horizon = 0
        self._settled_ahead = 0
        self.stepped_back: bool = False
        """Whether the server's clock was found to have gone back when the pass began."""
        self.since_ms: int = 0
        """The score from which the next page is to be read, inclusive."""
        self.settled_ms: int = 0
        """Server time at the beginning of the last complete pass: what is older has been told or found."""

    @property
    def begun(self) -> bool:
        """Whether the server's time is known."""
        return self._server_time.server_ms > 0

    # ── announcements ────────────────────────────────────────────────────────────────────────────────────────────

    def server_ms(self, now: float) -> int:
        """The server's time, at most a round trip too late, by what its clock says now. ``now``: seconds, monotonic."""
        return self._server_time.server_ms + round((now - self._server_time.sent_at) * 1000)

    def server_ms_at_least(self, now: float) -> int:
        """The same, at most a round trip too early: its clock was read before it answered."""
        return self._server_time.server_ms + round((now - self._server_time.answered_at) * 1000)

    def announced(self, payloads: Sequence[CompletionPayload], now: float) -> Sequence[CompletionPayload]:
        """Announcements have arrived. Returns them without those that the last pass has delivered already."""
        at = self.server_ms(now)
        if self._late:
            if at > self._late_until:
                self._late.clear()
            else:
                # Not remembered either: should it be a later completion after all, the next pass finds it.
                payloads = [payload for payload in payloads if not self._is_late(payload.execution_id)]
        self._batches.append(Announced.of(at, payloads))
        self._announced += len(payloads)
        while self._announced > 2 * self._limit:
            self._announced -= self._batches.popleft().count
            self._taken = max(0, self._taken - 1)
            self._indexed = max(0, self._indexed - 1)
        return payloads

    def reach_ms(self, now: float) -> int:
        """Nothing that has ended by ``now`` (seconds, monotonic) bears a later time, whichever clock wrote it, and even
        if that was put back since. What does bear one has been written by somebody else.
        """
        return max(self._highest_ms, self.server_ms(now)) + self._overlap + _ESTIMATED_MS

    def saw(self, server_ms: int) -> None:
        """So late was it, by a server's clock."""
        self._highest_ms = max(self._highest_ms, server_ms)

    def _is_late(self, execution_id: str) -> bool:
        known = execution_id in self._late
        self._late.discard(execution_id)
        return known

    @property
    def full(self) -> bool:
        """Whether so much has been announced that a pass should not wait any longer."""
        return self._announced > self._limit

    @property
    def recent(self) -> Sequence[Announced]:
        """Everything announced since the beginning of the last complete pass, and remembered."""
        return tuple(self._batches)

    # ── a pass over the index ────────────────────────────────────────────────────────────────────────────────────

    def begin(self, told: ServerTime) -> None:
        """A pass begins, and this is what the server's clock said."""
        before, self._server_time = self._server_time, told
        # A server that has been replaced since had another clock.
        apart_ms = self._clocks if told.apart_ms is None else min(told.apart_ms, self._clocks)
        self._apart_ms, self._apart_before = max(apart_ms, self._apart_before), apart_ms
        self.stepped_back = False
        if before.server_ms:
            elapsed_ms = round((told.sent_at - before.sent_at) * 1000)
            self._gained = max(0, told.server_ms - before.server_ms - elapsed_ms)
            # As far as it has gone, before it may be put back.
            self.saw(before.server_ms + elapsed_ms)
            # Should the server's clock have gone back, what it wrote since has lower scores.
            self.since_ms = min(self.since_ms, told.server_ms - elapsed_ms - self._overlap)
            # The last answer may have been long on its way to us, and its time is that much later than the asking.
            if told.server_ms + self._overlap < before.server_ms + round((told.sent_at - before.answered_at) * 1000):
                self.stepped_back = True
                self._settled_ahead = max(self._settled_ahead, self.settled_ms)
        else:
            self.since_ms = told.server_ms - self._overlap
        self.saw(told.server_ms)
        self._horizon = told.server_ms - self._overlap
        self._taken = len(self._batches)
        self._index, self._indexed = {}, 0

    def candidates(self, entries: Iterable[Entry], now: float) -> list[Candidate]:
        """Those of the entries, read after ``begin`` and by ``now`` (seconds, monotonic), that no announcement explains."""
        # Those that have arrived since the last page; a pass of many pages does not start over each time.
        self._index.update(latest(islice(self._batches, self._indexed, None)))
        self._indexed = len(self._batches)
        announced = self._index
        # By then the pass may have taken long, and what was written meanwhile is news.
        latest_ms = self.server_ms(now) + SLACK_MS
        found: list[Candidate] = []
        for execution_id, score in entries:
            if self._known.get(execution_id) == score:
                continue
            # It lies ahead of a clock that was put back, and behind what was settled before: it is old.
            if latest_ms < score <= self._settled_ahead:
                continue
            at = announced.get(execution_id)
            if at is None:
                found.append(Candidate(execution_id, score))
            elif score > at + SLACK_MS:
                # Whoever may announce can do so before it has ended. What no clock explains is another completion.
                later_ms = score - at - SLACK_MS - self._gained
                found.append(
                    Candidate(
                        execution_id, score, later_ms <= self._apart_ms, later_ms <= max(self._apart_ms, self._overlap)
                    )
                )
        return found

    def record(self, entries: Iterable[Entry], delivered: Iterable[str], upto_ms: int, now: float) -> None:
        """These entries, all up to a score, are dealt with; ``delivered`` were, and may yet be announced as well."""
        horizon = self._horizon
        if len(self._known) < _MOST_KNOWN:
            self._known.update((execution_id, score) for execution_id, score in entries if score >= horizon)
        self.since_ms = max(self.since_ms, min(upto_ms + 1, horizon))
        self._late.update(delivered)
        self._late_until = self.server_ms(now) + _LATE_MS

    def end(self) -> None:
        """The pass is complete. What was announced before it began needs no remembering."""
        self.since_ms = max(self.since_ms, self._horizon)
        self.settled_ms = self._server_time.server_ms
        self._known = {id_: score for id_, score in self._known.items() if score >= self.since_ms}
        for _ in range(self._taken):
            self._announced -= self._batches.popleft().count
        self._taken = 0
        self._index, self._indexed = {}, 0


def latest(batches: Iterable[Announced]) -> dict[str, int]:
    """For each execution, when it was announced last."""
    return {execution_id: batch.at_ms for batch in batches for execution_id in batch.ids}
