"""Reads the terminal index and the core records behind its entries, in pipelines, through ``execute``."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final, cast, final

import msgspec

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.reconciliation import Candidate, Entry
from ffcompletion.backends.valkey.replies import (
    PARTITION_COUNT,
    Execute,
    flow_of,
    partition_count,
    raise_refusal,
    server_ms,
    text_of,
    texts,
)
from ffcompletion.contract.ids import ExecutionId, is_execution_id, trusted_execution_id
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["IndexPage", "TerminalIndex", "is_lane"]

# Entries per key and read: with 256 partitions at most 51,200 in one reply of some 5 MB.
_PER_KEY: Final = 200
_LEAST_PER_KEY: Final = 8
_MOST: Final = 1 << 30
_BEYOND: Final = 1 << 62
# Where nobody names any: what our own producers' examples write to.
_ONLY_LANE: Final = "default"
_LANE: Final = re.compile(r"[\x20-\x7e]{1,64}")
# Beyond this a score, which is a float, tells milliseconds apart no longer: no time that an engine writes.
_LAST_MS: Final = 1 << 53
# Keys in one pipeline, however many lanes there are.
_KEYS_AT_ONCE: Final = 4_096


@final
class IndexPage(msgspec.Struct, frozen=True):
    """Everything that the index held in ``[since, upto]``."""

    entries: Sequence[Entry]
    upto: int
    complete: bool
    """Whether there was nothing beyond."""
    unreadable: int
    """Entries without a time or a name: what never was one of the engine's."""
    asked_ms: int
    """The server's time before the first key was read: what was written since may be in one key and not in another."""


@final
class TerminalIndex:
    """What is asked of the index. Raises glide's errors, also where one command of a pipeline was refused."""

    def __init__(self, execute: Execute, lanes: Sequence[str]) -> None:
        self._execute = execute
        self._given = frozenset(lanes)
        self._lanes: Sequence[str] = ()
        self._partitions = partition_count(None)
        self._per_key = _LEAST_PER_KEY

    async def look(self) -> tuple[int, float]:
        """The server's time in ms, and when it was asked for (s, monotonic). Learns lanes and partitions on the way."""
        sent_at = time.monotonic()
        now, lanes, partitions = await self._execute([("TIME",), ("SMEMBERS", keys.LANES), PARTITION_COUNT])
        raise_refusal((now, lanes, partitions))
        named = cast("set[object]", lanes) if isinstance(lanes, set) else set[object]()
        known = {lane for item in named if (lane := text_of(item)) is not None and is_lane(lane)}
        self._lanes = sorted(known | self._given or {_ONLY_LANE})
        self._partitions = partition_count(partitions)
        return server_ms(now), sent_at

    @property
    def key_count(self) -> int:
        """Of how many keys the index consists, one for each lane and partition."""
        return len(self._lanes) * self._partitions

    async def page(self, since_ms: int, wanted: int = _MOST) -> IndexPage:
        """Entries from a score on: about as many as are wanted, and then the score up to which they are all."""
        # Twice an even share, because the page ends where the first of the keys breaks off.
        per_key = min(max(2 * wanted // max(1, self.key_count), _LEAST_PER_KEY, self._per_key // 2), _PER_KEY)
        while True:
            found = _Found()
            async for reply in self._read(since_ms, per_key, found):
                found.add(reply, per_key)
            if found.cut is None:
                return IndexPage(
                    found.entries, _BEYOND, complete=True, unreadable=found.unreadable, asked_ms=found.asked_ms
                )
            # Of the keys that hold more, the first to break off says how far the page is whole.
            upto = found.cut - 1
            whole = [entry for entry in found.entries if entry[1] <= upto]
            if upto >= since_ms and (2 * len(whole) >= wanted or per_key >= _PER_KEY):
                # Where a few keys hold most, the next page begins with what it took for this one.
                self._per_key = per_key
                return IndexPage(whole, upto, complete=False, unreadable=found.unreadable, asked_ms=found.asked_ms)
            # One key holds most of them, or more at one millisecond than fit: a flow cancelled at once, say.
            per_key *= 4

    async def _read(self, since_ms: int, per_key: int, found: _Found) -> AsyncIterator[object]:
        # In pieces, and no piece is one moment: the server serves others in between.
        for names in self._names():
            now, *replies = await self._execute([("TIME",), *(_range(name, since_ms, per_key) for name in names)])
            raise_refusal((now, *replies))
            found.asked(server_ms(now))
            for reply in replies:
                yield reply

    def _names(self) -> Iterator[Sequence[str]]:
        """The keys, lane by lane, so many at a time."""
        for start in range(0, self.key_count, _KEYS_AT_ONCE):
            numbers = range(start, min(start + _KEYS_AT_ONCE, self.key_count))
            yield [
                keys.terminal(number % self._partitions, self._lanes[number // self._partitions]) for number in numbers
            ]

    async def payloads(self, candidates: Sequence[Candidate]) -> tuple[list[CompletionPayload], int]:
        """The completions behind the entries, oldest first, and how many entries have no readable core record.

        An execution that has been replayed since, and runs, has no completion now: its next one gets a new score.
        """
        ordered = sorted(
            (item for item in candidates if is_execution_id(item.execution_id)), key=lambda item: item.score_ms
        )
        if not ordered:
            return [], len(candidates)
        ids = [trusted_execution_id(item.execution_id) for item in ordered]
        replies = await self._execute([("HMGET", keys.core(id_), *_FIELDS) for id_ in ids])
        raise_refusal(replies)
        unreadable = len(candidates) - len(ordered)
        payloads: list[CompletionPayload] = []
        for item, id_, reply in zip(ordered, ids, replies, strict=True):
            fields = _fields(reply)
            if fields is None:
                unreadable += 1
            elif not item.doubtful or fields["replay_count"] not in (None, "", "0"):
                payloads += _payload(id_, item.score_ms, fields)
        return payloads, unreadable


def is_lane(text: str) -> bool:
    """Whether the engine takes it for a lane's name."""
    return _LANE.fullmatch(text) is not None


# Phase and outcome in one read: the outcome goes back to `none` on replay.
_FIELDS: Final = ("lifecycle_phase", "terminal_outcome", "flow_id", "replay_count")


def _range(name: str, since_ms: int, count: int) -> tuple[str, ...]:
    return ("ZRANGE", name, str(since_ms), "+inf", "BYSCORE", "LIMIT", "0", str(count), "WITHSCORES")


@final
class _Found:
    """What the keys of one page held."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.unreadable = 0
        self.cut: int | None = None
        self.asked_ms = 0

    def asked(self, now_ms: int) -> None:
        """The first time counts: what was written since may be in one key and not in another."""
        self.asked_ms = self.asked_ms or now_ms

    def add(self, reply: object, per_key: int) -> None:
        """One key's reply, in the order of its scores. A score that is no time is skipped and counted."""
        if not isinstance(reply, dict):
            return
        scored = cast("Mapping[object, float]", reply)
        last = 0.0
        for member, score in scored.items():
            name, last = text_of(member), score
            if name is None or not 0 <= score <= _LAST_MS:
                self.unreadable += 1
            else:
                self.entries.append((name, int(score)))
        # One that ends with scores beyond all times holds nothing more that is of interest.
        if len(scored) == per_key and 0 <= last <= _LAST_MS:
            self.cut = int(last) if self.cut is None else min(self.cut, int(last))


def _fields(reply: object) -> dict[str, str | None] | None:
    found = texts(reply, len(_FIELDS))
    if found is None or found[0] is None:
        return None
    return dict(zip(_FIELDS, found, strict=True))


def _payload(execution_id: ExecutionId, score_ms: int, fields: Mapping[str, str | None]) -> list[CompletionPayload]:
    outcome, flow = fields["terminal_outcome"], fields["flow_id"]
    if fields["lifecycle_phase"] != "terminal" or outcome in (None, "none"):
        return []
    return [CompletionPayload(execution_id, outcome or "", None, score_ms, flow_of(flow))]
