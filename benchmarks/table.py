"""What the benchmarks share: a consumer that only counts, and a table with one row a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

import ffcompletion as ffc

__all__ = ["Row", "consume", "median", "render"]


class Row(msgspec.Struct, kw_only=True):
    """A measurement. ``ratio`` is ours against the bare driver, in the direction that the floor is written in."""

    what: str
    ours: str
    bare: str = "–"
    ratio: str = "–"
    floor: str = "–"
    goal: str = "–"


async def consume(stream: ffc.CompletionStream, count: int) -> None:
    """Iterate as a user would, and do nothing with it."""
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == count:
            return


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def render(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | ours | bare | ratio | floor | goal |", "|---|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.ours} | {r.bare} | {r.ratio} | {r.floor} | {r.goal} |" for r in rows]
    return "\n".join(lines)
