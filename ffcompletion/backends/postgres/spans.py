"""Arithmetic on sets of ids, written as ascending disjoint spans ``(low, high)``, both inclusive. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Spans", "merged", "missing", "union", "without"]

Spans = list[tuple[int, int]]


def union(one: Spans, other: Spans) -> Spans:
    """Ids in either."""
    return merged(sorted(one + other), slack=1)


def merged(spans: Sequence[tuple[int, int]], slack: int) -> Spans:
    """Ascending spans, with those joined whose distance is at most ``slack``."""
    out: Spans = []
    for low, high in spans:
        if out and low - out[-1][1] <= slack:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def without(spans: Spans, holes: Spans) -> Spans:
    """Ids in ``spans`` and not in ``holes``."""
    out: Spans = []
    for low, high in spans:
        rest = low
        for hole_low, hole_high in holes:
            if hole_high < rest or hole_low > high:
                continue
            if hole_low > rest:
                out.append((rest, hole_low - 1))
            rest = hole_high + 1
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
