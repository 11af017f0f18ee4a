"""Clause 8, second half: where a stream says that it stands. Resuming there loses nothing, at whatever moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Final

from ffcompletion.consumers.checkpointing import checkpointed
from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness
from ffcompletion.testing.subject import Execution, fresh
from ffcompletion.testing.violation import NotChecked

__all__ = [
    "check_checkpointed",
    "check_position_after_overflow",
    "check_position_beside_strangers",
    "check_position_closed",
    "check_position_in_the_past",
    "check_position_joining",
]

_TENANT: Final = "conformance-a"
_STRANGER: Final = "conformance-b"
_OURS: Final = ScannerFilter(_TENANT)


def _position(stream: CompletionStream) -> StreamCursor:
    """The stream's ``cursor``. Raises ``NotChecked`` where it has none: then payloads alone tell the position."""
    cursor: object = getattr(stream, "cursor", None)
    if not isinstance(cursor, StreamCursor):
        raise NotChecked("its streams have no cursor")
    return cursor


async def _start(harness: Harness) -> StreamCursor:
    """A position from which everything that the check announces lies ahead."""
    opening = harness.resumable.subscribe_completions_from(StreamCursor.empty())
    stream = harness.kept(await harness.within(opening, "subscribe_completions_from() returns"))
    first = fresh()
    await harness.warmed(stream, first)
    await harness.announce(marker := fresh())
    while True:
        item = await harness.next(stream, "what is announced is delivered")
        if item.execution_id == marker.execution_id:
            break
    if item.cursor is None:
        raise harness.broken("completions of a resumable backend carry a cursor", "it is None")
    await stream.aclose()
    return item.cursor


async def _from(harness: Harness, cursor: StreamCursor, wanted: ScannerFilter | None) -> CompletionStream:
    try:
        opening = harness.resumable.subscribe_completions_from(cursor, wanted)
        return harness.kept(await harness.within(opening, "subscribe_completions_from() returns"))
    except Unavailable as exc:
        if wanted is None:
            raise
        raise NotChecked("the backend refuses filters") from exc


def _lost(stream: CompletionStream) -> int:
    stats = getattr(stream, "stats", None)
    return 0 if stats is None else int(stats().lost)


async def _holds(
    harness: Harness,
    stream: CompletionStream,
    wanted: ScannerFilter | None,
    items: Sequence[Execution],
    yielded: Collection[str],
    when: str,
) -> None:
    """Resume there: everything of these that was not yielded comes, or is counted as lost."""
    expected = f"resuming at the stream's cursor {when} yields everything that it had not yielded"
    missing = {item.execution_id for item in items} - set(yielded)
    count = len(missing)
    lost = _lost(stream)
    resumed = await _from(harness, _position(stream), wanted)
    marker = fresh(namespace=_TENANT)
    await harness.announce(marker)
    while True:
        got = (await harness.next(resumed, expected)).execution_id
        missing.discard(got)
        if got == marker.execution_id:
            break
    lost += _lost(resumed)
    await resumed.aclose()
    if len(missing) > lost:
        raise harness.broken(expected, f"{len(missing)} of {count} did not come")


async def _read(harness: Harness, stream: CompletionStream, count: int, yielded: list[str]) -> CompletionPayload | None:
    item = None
    for _ in range(count):
        item = await harness.next(stream, "everything after the cursor is delivered")
        yielded.append(item.execution_id)
    return item


@clause("8.7", "while it catches up, a stream's cursor stays behind what it has not yielded")
async def check_position_in_the_past(harness: Harness) -> None:
    """Before the first, in the middle, after the last of what is stored."""
    start = await _start(harness)
    items = [fresh(namespace=_TENANT) for _ in range(harness.options.burst)]
    await harness.announce(*items)
    stream = await _from(harness, start, None)
    yielded: list[str] = []
    for count in (0, 1, len(items) // 3, len(items) // 2):
        await _read(harness, stream, count, yielded)
        await _holds(harness, stream, None, items, yielded, f"after {len(yielded)} stored ones")


@clause("8.8", "while it joins what is live, a stream's cursor stays behind what it has not yielded")
async def check_position_joining(harness: Harness) -> None:
    """Others are live already, and completions keep coming that are not read yet."""
    others = await harness.stream()
    start = await _start(harness)
    items = [fresh(namespace=_TENANT) for _ in range(harness.options.burst // 2)]
    await harness.announce(*items)
    stream = await _from(harness, start, None)
    yielded: list[str] = []
    for _ in range(6):
        await _read(harness, stream, 5, yielded)
        more = [fresh(namespace=_TENANT) for _ in range(3)]
        await harness.announce(*more)
        items += more
        # The live signal has come through by then.
        await harness.all(others, more, "what is announced is delivered")
        await _holds(harness, stream, None, items, yielded, f"after {len(yielded)}, beside live ones")


@clause("8.9", "after an overflow, a stream's cursor stays behind what it has not yielded")
async def check_position_after_overflow(harness: Harness) -> None:
    """More is announced than the stream has room for; what is lost by that is counted."""
    stream = await harness.warmed(await _from(harness, await _start(harness), None), fresh())
    items = [fresh(namespace=_TENANT) for _ in range(harness.options.flood)]
    for at in range(0, len(items), 100):
        await harness.announce(*items[at : at + 100])
    yielded: list[str] = []
    for count in (0, 1, 7):
        await _read(harness, stream, count, yielded)
        await _holds(harness, stream, None, items, yielded, f"{len(yielded)} after an overflow")


@clause("8.10", "beside what its filter does not admit, a stream's cursor stays behind what it has not yielded")
async def check_position_beside_strangers(harness: Harness) -> None:
    """A backlog of one tenant's, and another's completions that come while it is read."""
    others = await harness.stream()
    start = await _start(harness)
    items = [fresh(namespace=_TENANT) for _ in range(harness.options.burst // 2)]
    await harness.announce(*items)
    stream = await _from(harness, start, _OURS)
    yielded: list[str] = []
    for _ in range(6):
        await _read(harness, stream, 4, yielded)
        stranger = fresh(namespace=_STRANGER)
        await harness.announce(stranger)
        await harness.all(others, [stranger], "what is announced is delivered")
        await _holds(harness, stream, _OURS, items, yielded, f"after {len(yielded)}, beside strangers")


@clause("8.11", "once it is closed, a stream's cursor still tells where it stood")
async def check_position_closed(harness: Harness) -> None:
    """Closed in the middle, and with a wait that was cancelled."""
    start = await _start(harness)
    items = [fresh(namespace=_TENANT) for _ in range(harness.options.burst)]
    await harness.announce(*items)
    for count in (0, 1, len(items) // 2):
        stream = await _from(harness, start, None)
        yielded: list[str] = []
        await _read(harness, stream, count, yielded)
        waiting = asyncio.ensure_future(harness.next(stream, "everything after the cursor is delivered"))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            yielded.append((await waiting).execution_id)
        await harness.close(stream, "in the middle")
        await _holds(harness, stream, None, items, yielded, f"closed after {len(yielded)}")


class _Memory:
    """A store that outlives the consumer."""

    def __init__(self) -> None:
        self.checkpoint: Checkpoint | None = None

    async def load(self, _name: str, /) -> Checkpoint | None:
        return self.checkpoint

    async def save(self, _name: str, checkpoint: Checkpoint, /) -> None:
        self.checkpoint = checkpoint


@clause("8.12", "a consumer that is cancelled at any item, and goes on where it stored, has processed everything")
async def check_checkpointed(harness: Harness) -> None:
    """``checkpointed`` over a backlog, beside another tenant's completions; cancelled at work and while it waits."""
    start = await _start(harness)
    try:
        await (await _from(harness, start, _OURS)).aclose()
        wanted: ScannerFilter | None = _OURS
    except NotChecked:
        wanted = None
    store = _Memory()
    announced: list[Execution] = []
    processed: set[str] = set()

    async def consume(enough: int) -> None:
        consumer = checkpointed(harness.resumable, store, "conformance", wanted, start=start, save_interval=0.0)
        async with consumer as completions:
            async for completion in completions:
                await asyncio.sleep(0)
                processed.add(completion.execution_id)
                if len(processed) >= enough or {item.execution_id for item in announced} <= processed:
                    # In the next body, or in the wait for what is still to come.
                    asyncio.get_running_loop().call_soon(consuming.cancel)

    for more, count in (
        (harness.options.burst // 2, 1),
        (1, 2),
        (1, 7),
        (3, 1_000_000),
        (3, 1_000_000),
        (3, 1_000_000),
    ):
        items = [fresh(namespace=_TENANT) for _ in range(more)]
        await harness.announce(*items, fresh(namespace=_STRANGER))
        announced += items
        consuming = asyncio.ensure_future(consume(len(processed) + count))
        await asyncio.wait({consuming}, timeout=harness.options.patience_s)
        consuming.cancel()
        await asyncio.wait({consuming})
        if not consuming.cancelled():
            error = consuming.exception()
            raise harness.broken("a checkpointed consumer goes on where it stored", f"it raised {error!r}")
    missing = {item.execution_id for item in announced} - processed
    if missing:
        raise harness.broken(
            "a checkpointed consumer that is cancelled and goes on processes everything",
            f"{len(missing)} of {len(announced)} were never processed",
        )
