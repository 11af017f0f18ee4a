"""Reads the terminal index and the core records behind its entries, in pipelines, through ``ask``."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast, final

import msgspec

from ffcompletion.backends.valkey import keys
from ffcompletion.backends.valkey.gate import Ask, raise_refusal, text_of
from ffcompletion.backends.valkey.reconcile import Entry, News
from ffcompletion.contract.ids import ExecutionId, is_execution_id, is_flow_id, trusted_execution_id, trusted_flow_id
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["PARTITION_COUNT", "IndexPage", "TerminalIndex", "is_lane", "partition_count"]

_PARTITIONS: Final = 256
# The Rust side reads the field as a u16.
_MOST_PARTITIONS: Final = 65_535
# Entries per key and read: with 256 partitions at most 51,200 in one reply of some 5 MB.
_PER_KEY: Final = 200
_LEAST_PER_KEY: Final = 8
_MOST: Final = 1 << 30
_BEYOND: Final = 1 << 62
# Where nobody names any: what our own producers' examples write to.
_ONLY_LANE: Final = "default"
_LANE: Final = re.compile(r"[\x20-\x7e]{1,64}")


PARTITION_COUNT: Final = ("HGET", keys.PARTITIONS, "num_flow_partitions")
"""The command whose reply ``partition_count`` reads."""


def partition_count(reply: object) -> int:
    """How many partitions the engine runs: 256 where it does not say, or says nothing sensible."""
    text = text_of(reply) or ""
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return count if 0 < count <= _MOST_PARTITIONS else _PARTITIONS


@final
class IndexPage(msgspec.Struct, frozen=True):
    """Everything that the index held in ``[since, upto]``."""

    entries: Sequence[Entry]
    upto: int
    complete: bool
    """Whether there was nothing beyond."""
    asked_ms: int
    """The server's time before the first key was read: what was written since may be in one key and not in another."""


@final
class TerminalIndex:
    """What is asked of the index. Raises glide's errors, also where one command of a pipeline was refused."""

    def __init__(self, ask: Ask, lanes: Sequence[str]) -> None:
        self._ask = ask
        self._given = frozenset(lanes)
        self._lanes: Sequence[str] = ()
        self._partitions = _PARTITIONS
        self._per_key = _LEAST_PER_KEY

    async def look(self) -> tuple[int, float]:
        """The server's time in ms, and when it was asked for (s, monotonic). Learns lanes and partitions on the way."""
        sent_at = time.monotonic()
        now, lanes, partitions = await self._ask([("TIME",), ("SMEMBERS", keys.LANES), PARTITION_COUNT])
        raise_refusal((now, lanes, partitions))
        named = cast("set[object]", lanes) if isinstance(lanes, set) else set[object]()
        known = {lane for item in named if (lane := text_of(item)) is not None and is_lane(lane)}
        self._lanes = sorted(known | self._given or {_ONLY_LANE})
        self._partitions = partition_count(partitions)
        return _ms(now), sent_at

    async def page(self, since_ms: int, wanted: int = _MOST) -> IndexPage:
        """Entries from a score on: about as many as are wanted, and then the score up to which they are all."""
        names = [keys.terminal(n, lane) for lane in self._lanes for n in range(self._partitions)]
        # Twice an even share, because the page ends where the first of the keys breaks off.
        per_key = min(max(2 * wanted // len(names), _LEAST_PER_KEY, self._per_key // 2), _PER_KEY)
        while True:
            # One pipeline, but not one moment: the server serves others in between.
            now, *replies = await self._ask([("TIME",), *(_range(name, since_ms, per_key) for name in names)])
            raise_refusal((now, *replies))
            asked_ms = _ms(now)
            found = [_entries(reply) for reply in replies]
            cut = [max(score for _, score in entries) for entries in found if len(entries) == per_key]
            if not cut:
                return IndexPage(
                    [entry for entries in found for entry in entries], _BEYOND, complete=True, asked_ms=asked_ms
                )
            # Of the keys that hold more, the first to break off says how far the page is whole.
            upto = min(cut) - 1
            whole = [entry for entries in found for entry in entries if entry[1] <= upto]
            if upto >= since_ms and (2 * len(whole) >= wanted or per_key >= _PER_KEY):
                # Where a few keys hold most, the next page begins with what it took for this one.
                self._per_key = per_key
                return IndexPage(whole, upto, complete=False, asked_ms=asked_ms)
            # One key holds most of them, or more at one millisecond than fit: a flow cancelled at once, say.
            per_key *= 4

    async def payloads(self, news: Sequence[News]) -> tuple[list[CompletionPayload], int]:
        """The completions behind the entries, oldest first, and how many entries have no readable core record.

        An execution that has been replayed since, and runs, has no completion now: its next one gets a new score.
        """
        ordered = sorted((item for item in news if is_execution_id(item.execution_id)), key=lambda item: item.score_ms)
        if not ordered:
            return [], len(news)
        ids = [trusted_execution_id(item.execution_id) for item in ordered]
        replies = await self._ask([("HMGET", keys.core(id_), *_FIELDS) for id_ in ids])
        raise_refusal(replies)
        unreadable = len(news) - len(ordered)
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


def _ms(time_reply: object) -> int:
    seconds, microseconds = cast("list[bytes]", time_reply)
    return int(seconds) * 1000 + int(microseconds) // 1000


def _range(name: str, since_ms: int, count: int) -> tuple[str, ...]:
    return ("ZRANGE", name, str(since_ms), "+inf", "BYSCORE", "LIMIT", "0", str(count), "WITHSCORES")


def _entries(reply: object) -> list[Entry]:
    if not isinstance(reply, dict):
        return []
    found = cast("Mapping[object, float]", reply).items()
    return [(name, int(score)) for member, score in found if (name := text_of(member)) is not None]


def _fields(reply: object) -> dict[str, str | None] | None:
    if not isinstance(reply, list):
        return None
    found = dict[str, str | None](zip(_FIELDS, map(text_of, cast("list[object]", reply)), strict=True))
    return None if found["lifecycle_phase"] is None else found


def _payload(execution_id: ExecutionId, score_ms: int, fields: Mapping[str, str | None]) -> list[CompletionPayload]:
    outcome, flow = fields["terminal_outcome"], fields["flow_id"]
    if fields["lifecycle_phase"] != "terminal" or outcome in (None, "none"):
        return []
    flow_id = trusted_flow_id(flow) if flow and is_flow_id(flow) else None
    return [CompletionPayload(execution_id, outcome or "", None, score_ms, flow_id)]
