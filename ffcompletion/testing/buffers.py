"""Clause 4: a slow consumer is nobody else's trouble, and what it is behind by is no burden."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import tracemalloc
from typing import Final

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import EngineError
from ffcompletion.contract.protocols import CompletionStream, ResumableCompletionBackend
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness
from ffcompletion.testing.subject import fresh
from ffcompletion.testing.violation import ContractViolation, NotChecked

__all__ = ["check_bounded", "check_holds_no_more", "check_loss_is_visible", "check_slow_goes_on", "check_slow_one"]

# What one completion costs at the very least where it is kept: the payload, its id, a place in a queue.
_KEPT_BYTES: Final = 120


@clause("4.1", "a consumer that does not read delays nobody else")
async def check_slow_one(harness: Harness) -> None:
    """The others get everything meanwhile."""
    slow, quick = await harness.stream(), await harness.stream()
    expected = "a consumer that does not read delays nobody else"
    for _ in range(0, harness.options.flood, 100):
        items = [fresh() for _ in range(100)]
        await harness.announce(*items)
        # Whether all of them have come is another clause's business.
        came = await harness.until_now(quick, expected)
        if not {item.execution_id for item in items} & set(came):
            raise harness.broken(expected, "none of the last hundred has come")
    del slow


@clause("4.2", "a slow consumer's stream goes on when it reads again")
async def check_slow_goes_on(harness: Harness) -> None:
    """Whatever the backend does with what did not fit, it neither raises nor ends."""
    slow = await harness.stream()
    items = [fresh() for _ in range(harness.options.flood)]
    for at in range(0, len(items), 100):
        await harness.announce(*items[at : at + 100])
    await harness.goes_on(slow, "after an overflow the stream goes on")


@clause("4.3", "buffers are bounded")
async def check_bounded(harness: Harness) -> None:
    """Memory does not grow with what is announced while a consumer does not read.

    Twice the flood is announced, in four parts, and what Python has allocated is compared after each. What is kept
    grows with every part; a table that doubles does so once.
    """
    slow = await harness.stream()
    part = harness.options.flood // 2
    tracing = tracemalloc.is_tracing()
    if not tracing:
        # Before the first of them, so that what is let go of later is known too.
        tracemalloc.start()
    try:
        for _ in range(0, harness.options.remembers, 100):
            await harness.announce(*[fresh() for _ in range(100)])
        sizes: list[int] = []
        for _ in range(4):
            for _ in range(0, part, 100):
                await harness.announce(*[fresh() for _ in range(100)])
            await asyncio.sleep(0.1)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        if not tracing:
            tracemalloc.stop()
    grown = min(after - before for before, after in itertools.pairwise(sizes))
    if grown > part * _KEPT_BYTES // 2:
        raise harness.broken(
            "what is announced while nobody reads does not stay in memory",
            f"every {part} completions more left {grown // 1024} KiB more",
        )
    del slow


@clause("4.4", "what a slow consumer loses is counted")
async def check_loss_is_visible(harness: Harness) -> None:
    """Delivered, or in ``stats().lost`` of its stream."""
    slow = await harness.stream()
    stats = getattr(slow, "stats", None)
    if stats is None:
        raise NotChecked("its streams have no stats()")
    items = [fresh() for _ in range(harness.options.flood)]
    for at in range(0, len(items), 100):
        await harness.announce(*items[at : at + 100])
    came: set[str] = set()
    wanted = {item.execution_id for item in items}
    seconds = harness.options.patience_s
    try:
        async with asyncio.timeout(seconds):
            while len(came & wanted) + int(stats().lost) < len(wanted):
                came.add((await harness.next(slow, "what did not fit is delivered later, or counted")).execution_id)
    except TimeoutError:
        raise harness.broken(
            "what was announced is delivered, or counted in stats().lost",
            f"of {len(wanted)}, {len(came & wanted)} came and {stats().lost} are counted as lost after {seconds:g} s",
        ) from None


@clause("4.5", "a stream holds no more than it was given room for")
async def check_holds_no_more(harness: Harness) -> None:
    """By ``stats().buffered``, at each step: flooded, read, resumed from the beginning beside it, and flooded again."""
    most = harness.options.holds
    if most is None:
        raise NotChecked("how much a stream may hold was not said")
    streams = [await harness.stream()]
    if getattr(streams[0], "stats", None) is None:
        raise NotChecked("its streams have no stats()")
    await _flood(harness, streams, most)
    if isinstance(harness.backend, ResumableCompletionBackend):
        from_the_beginning = harness.backend.subscribe_completions_from(StreamCursor.beginning())
        # What it raises is another clause's business.
        with contextlib.suppress(EngineError, ContractViolation):
            streams.append(harness.kept(await harness.within(from_the_beginning, "subscribing returns")))
    for _ in range(most):
        for stream in tuple(streams):
            try:
                await harness.next(stream, "it goes on")
            except ContractViolation:
                streams.remove(stream)
            else:
                _look(harness, stream, most, "while it is read")
    await _flood(harness, streams, most)


async def _flood(harness: Harness, streams: list[CompletionStream], most: int) -> None:
    for size in (1, most // 2, most + 50, 100, most * 2):
        await harness.announce(*[fresh() for _ in range(size)])
        for _ in range(5):
            await asyncio.sleep(0.004)
            for stream in streams:
                _look(harness, stream, most, "while nobody reads")


def _look(harness: Harness, stream: CompletionStream, most: int, when: str) -> None:
    held = int(getattr(stream, "stats")().buffered)  # noqa: B009  # not every stream has them
    if held > most:
        raise harness.broken(f"a stream holds {most} completions at the most", f"{when}, it holds {held}")
