"""Reads the terminal index and the core records behind its entries, in pipelines, through ``execute``."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast, final

import msgspec

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.lanes import MOST_LANES, Lanes
from ffcompletion.backends.valkey.reconciliation import Candidate, Entry, ServerTime
from ffcompletion.backends.valkey.replies import (
    PARTITION_COUNT,
    Clocks,
    Execute,
    TooSlowError,
    flow_of,
    partition_count,
    raise_refusal,
    server_ms,
    text_of,
    texts,
)
from ffcompletion.backends.valkey.scanning import scan_set
from ffcompletion.contract.ids import ExecutionId, is_execution_id, trusted_execution_id
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["MOST", "IndexPage", "TerminalIndex"]

# Entries per key and read.
_PER_KEY: Final = 200
_LEAST_PER_KEY: Final = 8
MOST: Final = 51_200
"""As many entries as a page may hold: some 5 MB, and 200 of each key with 256 partitions."""
_BEYOND: Final = 1 << 62
# Entries of one millisecond in a page, of all the keys that hold more of them.
_AT_ONCE: Final = 10_000
_NOTHING: Final[Mapping[str, int]] = {}
# Members of the set of lanes: some may be no lanes, and others are known already.
_LANES_SCANNED: Final = 4 * MOST_LANES
# Keys in one pipeline, however many lanes there are.
_KEYS_AT_ONCE: Final = 4_096
# What one key's entries may come to in one reply: of one that holds larger ones fewer are asked for.
_BYTES: Final = 1 << 20
# An id has some 50 characters. What is longer is none, and is not kept.
_LONGEST: Final = 256
# A key whose entries come as quickly as this may be asked for twice as many of them.
_QUICK_S: Final = 0.25
_FEWER: Final = 64
# Records in one question: what is built and read for them holds the loop for some milliseconds.
_RECORDS_AT_ONCE: Final = 512
# Entries that are looked at between two turns of the loop.
_IN_ONE_GO: Final = 10_000


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
    skip: Mapping[str, int] = {}
    """Where a page cannot hold all that has the score ``upto + 1``: how many of it each key has given so far."""

    def reached(self, piece: Sequence[Entry], pending: Sequence[Entry]) -> int:
        """The score from which the next page is to be read by whom it was pending for, and who took a piece of that."""
        if len(piece) < len(pending) or self.complete:
            return piece[-1][1] if piece else 0
        return self.upto + 1


@final
class TerminalIndex:
    """What is asked of the index. Raises glide's errors, also where one command of a pipeline was refused."""

    def __init__(self, execute: Execute, lanes: Sequence[str], clocks: Clocks | None = None) -> None:
        self._execute = execute
        self._clocks = clocks
        self._lanes = Lanes(lanes)
        self._partitions = partition_count(None)
        self._per_key = _LEAST_PER_KEY
        # Keys with entries that are too large to be read as many at a time as others, and how many may be.
        self._few: dict[str, int] = {}

    async def look(self) -> ServerTime:
        """The server's time. Learns lanes and partitions on the way."""
        sent_at = time.monotonic()
        now, partitions = await self._execute([("TIME",), PARTITION_COUNT])
        answered_at = time.monotonic()
        raise_refusal((now, partitions))
        found, whole = await scan_set(self._execute, keys.LANES, _LANES_SCANNED)
        self._lanes.registered(found, whole=whole)
        self._partitions = partition_count(partitions)
        apart_ms = await self._clocks() if self._clocks else 0
        return ServerTime(server_ms(now), sent_at, answered_at, apart_ms)

    @property
    def lanes(self) -> Sequence[str]:
        """The lanes that it is read by, as of the last look."""
        return self._lanes.names

    @property
    def key_count(self) -> int:
        """Of how many keys the index consists, one for each lane and partition."""
        return len(self.lanes) * self._partitions

    async def page(
        self, since_ms: int, until_ms: int, wanted: int = MOST, skip: Mapping[str, int] = _NOTHING
    ) -> IndexPage:
        """Entries from a score on, up to another: about as many as are wanted, and then the score up to which they are
        all. ``skip``: as the last page says, if it ended just before the first score.
        """
        # Twice an even share, because the page ends where the first of the keys breaks off.
        per_key = min(max(2 * wanted // max(1, self.key_count), _LEAST_PER_KEY, self._per_key // 2), _PER_KEY)
        while True:
            found = _Found(since_ms, until_ms)
            if not await self._read(found, per_key, skip):
                continue
            if found.cut is None:
                # Unless the server's clock has gone beyond that meanwhile.
                complete = until_ms >= found.asked_ms
                upto = _BEYOND if complete else until_ms
                return IndexPage(found.entries, upto, complete, len(found.unreadable), found.asked_ms)
            # Of the keys that hold more, the first to break off says how far the page is whole.
            upto = found.cut - 1
            whole, unreadable = found.upto(upto)
            full = per_key >= _PER_KEY or len(found.entries) >= MOST
            if upto >= since_ms and (2 * len(whole) >= wanted or full):
                # Where a few keys hold most, the next page begins with what it took for this one.
                self._per_key = per_key
                return IndexPage(whole, upto, False, unreadable, found.asked_ms)
            if upto < since_ms and full:
                # More at one millisecond than fit: a flow cancelled at once, say. A piece of it at a time.
                given = {name: skip.get(name, 0) + found.at_once.get(name, 0) for name in {**skip, **found.at_once}}
                first, unreadable = found.upto(since_ms)
                return IndexPage(first, upto, False, unreadable, found.asked_ms, given)
            # One key holds most of them.
            per_key *= 4

    async def _read(self, found: _Found, per_key: int, skip: Mapping[str, int]) -> bool:
        """All keys, so many entries of each. False: fewer of some are to be asked for."""
        more = max(per_key, _AT_ONCE // max(1, len(skip)))

        def asked(name: str) -> tuple[str, ...]:
            count = min(more if name in skip else per_key, self._few.get(name, _AT_ONCE))
            return _range(name, (found.since_ms, found.until_ms), skip.get(name, 0), count)

        # In pieces, and no piece is one moment: the server serves others in between.
        for names in self.names():
            # As of now: what is found to be one of them has been read by then.
            few = [name for name in names if name in self._few]
            usual = [asked(name) for name in names if name not in self._few] if few else list(map(asked, names))
            try:
                now, *replies = await self._execute([("TIME",), *usual])
                raise_refusal((now, *replies))
                found.asked(server_ms(now))
                await self._look_at(found, usual, replies)
                for name in few:
                    await self._read_few(found, asked(name))
            except TooSlowError as exc:
                self._ask_for_fewer(exc)
                return False
        return True

    async def _read_few(self, found: _Found, command: Sequence[str]) -> None:
        started = time.monotonic()
        replies = await self._execute([command])
        raise_refusal(replies)
        if time.monotonic() - started < _QUICK_S:
            self._allow(command[1], 2 * self._few[command[1]])
        await self._look_at(found, [command], replies)

    def _ask_for_fewer(self, exc: TooSlowError) -> None:
        """Raises it again where fewer cannot be asked for: it may take longer the next time."""
        if exc.command[0] != "ZRANGE":
            raise exc
        name, count = exc.command[1], _count_of(exc.command)
        known = name in self._few
        self._allow(name, max(1, count // _FEWER))
        if known and count == 1:
            raise exc

    def _allow(self, name: str, count: int) -> None:
        if count < _PER_KEY:
            self._few[name] = count
        else:
            self._few.pop(name, None)

    async def _look_at(self, found: _Found, commands: Sequence[Sequence[str]], replies: Sequence[object]) -> None:
        looked = len(found.entries)
        for command, reply in zip(commands, replies, strict=True):
            count = _count_of(command)
            size = found.add(command[1], reply, count)
            if size > _BYTES:
                self._allow(command[1], max(1, count * _BYTES // size))
            if len(found.entries) >= looked + _IN_ONE_GO:
                looked = len(found.entries)
                await asyncio.sleep(0)

    def names(self) -> Iterator[Sequence[str]]:
        """The keys, lane by lane, so many at a time."""
        for start in range(0, self.key_count, _KEYS_AT_ONCE):
            numbers = range(start, min(start + _KEYS_AT_ONCE, self.key_count))
            yield [
                keys.terminal(number % self._partitions, self.lanes[number // self._partitions]) for number in numbers
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
        unreadable = len(candidates) - len(ordered)
        payloads: list[CompletionPayload] = []
        for start in range(0, len(ordered), _RECORDS_AT_ONCE):
            piece = ordered[start : start + _RECORDS_AT_ONCE]
            ids = [trusted_execution_id(item.execution_id) for item in piece]
            replies = await self._execute([("HMGET", keys.core(id_), *_FIELDS) for id_ in ids])
            raise_refusal(replies)
            for item, id_, reply in zip(piece, ids, replies, strict=True):
                fields = _fields(reply)
                if fields is None:
                    unreadable += 1
                elif not item.is_doubtful(fields["terminal_outcome"]) or fields["replay_count"] not in (None, "", "0"):
                    payloads += _payload(id_, item.score_ms, fields)
        return payloads, unreadable


# Phase and outcome in one read: the outcome goes back to `none` on replay.
_FIELDS: Final = ("lifecycle_phase", "terminal_outcome", "flow_id", "replay_count")


def _range(name: str, scores: tuple[int, int], skip: int, count: int) -> tuple[str, ...]:
    since, until = map(str, scores)
    return ("ZRANGE", name, since, until, "BYSCORE", "LIMIT", str(skip), str(count), "WITHSCORES")


def _count_of(command: Sequence[str]) -> int:
    return int(command[-2])


@final
class _Found:
    """What the keys of one page held."""

    def __init__(self, since_ms: int, until_ms: int) -> None:
        self.since_ms = since_ms
        self.until_ms = until_ms
        self.entries: list[Entry] = []
        # How many entries of each key bear that very score.
        self.at_once: dict[str, int] = {}
        self.unreadable: list[int] = []
        """The scores of what is no entry of the engine's."""
        self.cut: int | None = None
        self.asked_ms = 0

    def asked(self, now_ms: int) -> None:
        """The first time counts: what was written since may be in one key and not in another."""
        self.asked_ms = self.asked_ms or now_ms

    def upto(self, last_ms: int) -> tuple[list[Entry], int]:
        """The entries up to a score, and how many are unreadable; what lies beyond is read once more."""
        entries = [entry for entry in self.entries if entry[1] <= last_ms]
        return entries, sum(score <= last_ms for score in self.unreadable)

    def add(self, key: str, reply: object, count: int) -> int:
        """One key's reply, in the order of its scores. Returns how many bytes its long entries have."""
        if not isinstance(reply, dict):
            return 0
        scored = cast("Mapping[object, float]", reply)
        last = first = size = 0
        for member, score in scored.items():
            # No server has such a score; and nothing that is decoded may raise.
            name, last = None, int(score) if math.isfinite(score) else 0
            if isinstance(member, bytes) and len(member) > _LONGEST:
                size += len(member)
            else:
                name = text_of(member)
            first += last <= self.since_ms
            if name is None:
                self.unreadable.append(last)
            else:
                self.entries.append((name, last))
        if first:
            self.at_once[key] = first
        if len(scored) == count:
            self.cut = last if self.cut is None else min(self.cut, last)
        return size


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
