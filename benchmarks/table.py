"""One row a measurement: what, ours, the bare driver's, their ratio, floor and goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

__all__ = ["Row", "median", "render"]


class Row(msgspec.Struct, kw_only=True):
    """A measurement. ``ratio`` is ours against the bare driver, in the direction that the floor is written in."""

    what: str
    ours: str
    bare: str = "–"
    ratio: str = "–"
    floor: str = "–"
    goal: str = "–"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def render(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | ours | bare | ratio | floor | goal |", "|---|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.ours} | {r.bare} | {r.ratio} | {r.floor} | {r.goal} |" for r in rows]
    return "\n".join(lines)
