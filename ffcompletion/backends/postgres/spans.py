"""Arithmetic on sets of ids, written as ascending disjoint spans ``(low, high)``, both inclusive. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import itemgetter

__all__ = ["Spans", "covers", "merged", "missing", "run_from", "union", "without"]

Spans = list[tuple[int, int]]


def union(one: Spans, other: Spans) -> Spans:
    """Ids in either."""
    return merged(sorted(one + other), slack=1)


def merged(spans: Sequence[tuple[int, int]], slack: int, longest: int | None = None) -> Spans:
    """Ascending spans, with those joined whose distance is at most ``slack``, up to a length of ``longest``."""
    out: Spans = []
    for low, high in spans:
        if out and low - out[-1][1] <= slack and (longest is None or high - out[-1][0] < longest):
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def covers(spans: Sequence[tuple[int, int]], span: tuple[int, int]) -> bool:
    """Whether all of a span lies in one of these."""
    at = bisect_right(spans, span[0], key=itemgetter(0)) - 1
    return at >= 0 and span[1] <= spans[at][1]


def run_from(spans: Sequence[tuple[int, int]], slack: int, most_between: int) -> tuple[int, int]:
    """One span over the first of these and as many of the next as lie close: at most ``slack`` ids from one to the
    next, and ``most_between`` ids in between altogether, however long they are themselves.
    """
    low, high = spans[0]
    between = 0
    for next_low, next_high in islice(spans, 1, None):
        distance = next_low - high - 1
        between += distance
        if distance > slack or between > most_between:
            break
        high = next_high
    return low, high


def without(spans: Spans, holes: Spans) -> Spans:
    """Ids in ``spans`` and not in ``holes``."""
    out: Spans = []
    first = 0
    for low, high in spans:
        while first < len(holes) and holes[first][1] < low:
            first += 1
        rest, at = low, first
        while at < len(holes) and holes[at][0] <= high:
            if holes[at][0] > rest:
                out.append((rest, holes[at][0] - 1))
            rest = holes[at][1] + 1
            at += 1
        if rest <= high:
            out.append((rest, high))
    return out


def missing(ids: Iterable[int]) -> Spans:
    """What lies between the ids of an ascending sequence and is not in it."""
    out: Spans = []
    last: int | None = None
    for event_id in ids:
        if last is not None and event_id > last + 1:
            out.append((last + 1, event_id - 1))
        last = event_id
    return out
