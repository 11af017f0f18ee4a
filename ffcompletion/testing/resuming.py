"""Clause 8: resumable backends. Clause 9: backends that can be closed."""

from __future__ import annotations

import asyncio

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import EngineError, Validation
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness, closed
from ffcompletion.testing.subject import Execution, fresh
from ffcompletion.testing.violation import NotChecked

__all__ = [
    "check_close_backend",
    "check_cursor_bytes",
    "check_ends",
    "check_foreign_cursor",
    "check_joins",
    "check_resume",
    "check_resume_filtered",
]


async def _from(harness: Harness, cursor: StreamCursor, wanted: ScannerFilter | None = None) -> CompletionStream:
    opening = harness.resumable.subscribe_completions_from(cursor, wanted)
    return harness.kept(await harness.within(opening, "subscribe_completions_from() returns"))


async def _now(harness: Harness) -> CompletionStream:
    return await harness.warmed(await _from(harness, StreamCursor.empty()), fresh(namespace="conformance-a"))


async def _cursors(harness: Harness, stream: CompletionStream, items: list[Execution]) -> list[StreamCursor]:
    """The cursor of each of these, which come in order."""
    found: dict[str, StreamCursor] = {}
    wanted = {item.execution_id for item in items}
    while len(found) < len(items):
        got = await harness.next(stream, "what is announced is delivered")
        if got.cursor is None:
            raise harness.broken("completions of a resumable backend carry a cursor", "it is None")
        if got.execution_id in wanted:
            found[got.execution_id] = got.cursor
    return [found[item.execution_id] for item in items]


@clause("8.1", "resuming at a cursor yields everything after it")
async def check_resume(harness: Harness) -> None:
    """At every one of them; also what was announced while nobody listened, and what comes afterwards."""
    stream = await _now(harness)
    items = [fresh() for _ in range(10)]
    await harness.announce(*items)
    cursors = await _cursors(harness, stream, items)
    await stream.aclose()
    missed = [fresh() for _ in range(5)]
    await harness.announce(*missed)
    for at in (0, 4, 9):
        resumed = await _from(harness, cursors[at])
        live = fresh()
        await harness.announce(live)
        wanted = [*items[at + 1 :], *missed, live]
        await harness.all(resumed, wanted, "resuming at a cursor yields everything after it")
        await resumed.aclose()
        missed.append(live)


@clause("8.2", "cursors survive being stored")
async def check_cursor_bytes(harness: Harness) -> None:
    """As bytes and as text, and resuming at what was restored."""
    stream = await _now(harness)
    items = [fresh() for _ in range(3)]
    await harness.announce(*items)
    cursor = (await _cursors(harness, stream, items))[0]
    for restored in (StreamCursor.from_bytes(cursor.to_bytes()), StreamCursor.from_text(str(cursor))):
        if restored != cursor:
            raise harness.broken(f"{cursor!r} is itself again after being stored", f"it is {restored!r}")
        resumed = await _from(harness, restored)
        await harness.all(resumed, items[1:], "resuming at a restored cursor yields everything after it")


@clause("8.3", "the empty cursor is from now, the beginning is all there is")
async def check_ends(harness: Harness) -> None:
    """What was announced before is not told by the one, and told by the other."""
    keeper = await harness.stream()
    old = [fresh() for _ in range(3)]
    await harness.announce(*old)
    await harness.all(keeper, old, "what is announced is delivered")
    now = await _now(harness)
    await harness.nothing_but(now, [], fresh(), "the empty cursor is from now")
    beginning = await _from(harness, StreamCursor.beginning())
    await harness.all(beginning, old, "the beginning is everything that is kept")


@clause("8.4", "a stream that resumes joins what is live without loss")
async def check_joins(harness: Harness) -> None:
    """While completions keep coming."""
    stream = await _now(harness)
    first = fresh()
    await harness.announce(first)
    cursor = (await _cursors(harness, stream, [first]))[0]
    await stream.aclose()
    items = [fresh() for _ in range(harness.options.burst)]
    half = len(items) // 2
    await harness.announce(*items[:half])

    async def go_on() -> None:
        for at in range(half, len(items), 10):
            await harness.announce(*items[at : at + 10])
            await asyncio.sleep(0)

    announcing = asyncio.ensure_future(go_on())
    try:
        resumed = await _from(harness, cursor)
        await harness.all(resumed, items, "between what is stored and what is live nothing is lost")
        await announcing
    finally:
        announcing.cancel()


@clause("8.5", "resuming honours a filter")
async def check_resume_filtered(harness: Harness) -> None:
    """In what is stored as in what is live."""
    stream = await _now(harness)
    first = fresh(namespace="conformance-a")
    await harness.announce(first)
    cursor = (await _cursors(harness, stream, [first]))[0]
    ours = [fresh(namespace="conformance-a") for _ in range(5)]
    for item in ours:
        await harness.announce(item, fresh(namespace="conformance-b"), fresh())
    try:
        resumed = await _from(harness, cursor, ScannerFilter("conformance-a"))
    except EngineError as exc:
        raise NotChecked("the backend refuses filters") from exc
    await harness.all(resumed, ours, "everything after the cursor that the filter admits is delivered")
    allowed = [first, *ours]
    await harness.nothing_but(resumed, allowed, fresh(namespace="conformance-a"), "nothing else is delivered")


@clause("8.6", "a cursor of another backend is refused")
async def check_foreign_cursor(harness: Harness) -> None:
    """With ``Validation``: one layout or the other is not its own."""
    refused = 0
    for cursor in (StreamCursor.outbox(1 << 62), StreamCursor.stream(1 << 62, 1 << 62)):
        try:
            await _from(harness, cursor)
        except Validation:
            refused += 1
    if not refused:
        raise harness.broken("a cursor that is not the backend's raises Validation", "every layout was accepted")


@clause("9.1", "closing the backend ends its streams")
async def check_close_backend(harness: Harness) -> None:
    """Also one that somebody waits on; twice is fine; afterwards subscribing raises."""
    if getattr(harness.backend, "aclose", None) is None:
        raise NotChecked("the backend cannot be closed")
    stream = await harness.stream()
    waiting = asyncio.ensure_future(anext(aiter(stream), None))
    await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(harness.options.closing_s):
            await closed(harness.backend)
            await closed(harness.backend)
            if await waiting is not None:
                raise harness.broken("closing the backend ends its streams", "an item came")
    except TimeoutError:
        raise harness.broken("closing the backend is done in time and ends its streams", "it hung") from None
    finally:
        waiting.cancel()
    try:
        harness.kept(await harness.within(harness.backend.subscribe_completions(), "it raises"))
    except EngineError:
        return
    raise harness.broken("subscribing to a closed backend raises an EngineError", "it returned a stream")
