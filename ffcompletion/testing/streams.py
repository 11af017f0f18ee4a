"""Clause 3: streams are independent, and close cleanly."""

from __future__ import annotations

import asyncio
import gc
import warnings

from ffcompletion.contract.protocols import CompletionStream
from ffcompletion.testing.check import clause
from ffcompletion.testing.harness import Harness
from ffcompletion.testing.subject import fresh
from ffcompletion.testing.violation import NotChecked

__all__ = [
    "check_again",
    "check_close_one",
    "check_close_twice",
    "check_close_while_mute",
    "check_close_while_waiting",
    "check_closed_is_over",
    "check_dropped",
    "check_independent",
    "check_no_connection_left",
    "check_no_task_left",
]


@clause("3.1", "every stream gets every completion")
async def check_independent(harness: Harness) -> None:
    """Opened before and after each other, read one after the other."""
    first, second = await harness.stream(), await harness.stream()
    early = [fresh() for _ in range(10)]
    await harness.announce(*early)
    third = await harness.stream()
    late = [fresh() for _ in range(10)]
    await harness.announce(*late)
    await harness.all(second, early + late, "every stream gets every completion")
    await harness.all(first, early + late, "every stream gets every completion")
    await harness.all(third, late, "every stream gets every completion")


@clause("3.2", "closing one stream leaves the others alone")
async def check_close_one(harness: Harness) -> None:
    """What they had, and what comes."""
    kept, other = await harness.stream(), await harness.stream()
    items = [fresh() for _ in range(10)]
    await harness.announce(*items[:5])
    await harness.close(other, "one of two streams")
    await harness.announce(*items[5:])
    await harness.all(kept, items, "closing another stream loses nothing")


@clause("3.3", "closing twice is fine")
async def check_close_twice(harness: Harness) -> None:
    """One after the other, and both at once."""
    first, stream = await harness.stream(), await harness.stream()
    await harness.close(first, "once")
    await harness.close(first, "twice")
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(_closing(harness, stream))


async def _closing(harness: Harness, stream: CompletionStream) -> None:
    await harness.close(stream, "twice at once")


@clause("3.4", "a task that waits for the next item when the stream is closed gets StopAsyncIteration")
async def check_close_while_waiting(harness: Harness) -> None:
    """At once, and not an error, nor for ever."""
    stream = await harness.stream()
    waiting = asyncio.ensure_future(_outcome(stream))
    await asyncio.sleep(0.01)
    await harness.close(stream, "while another task waits for the next item")
    await asyncio.wait({waiting}, timeout=harness.options.closing_s)
    if not waiting.done():
        waiting.cancel()
        raise harness.broken("the waiting task gets StopAsyncIteration", "it still waits")
    if waiting.result() != "StopAsyncIteration":
        raise harness.broken("the waiting task gets StopAsyncIteration", f"it got {waiting.result()}")


async def _outcome(stream: CompletionStream) -> str:
    try:
        return f"an item, {await anext(aiter(stream))!r}"
    except StopAsyncIteration:
        return "StopAsyncIteration"
    except Exception as exc:  # noqa: BLE001  # told, not raised: it is what is being looked for
        return repr(exc)


@clause("3.5", "a stream that is closed is over")
async def check_closed_is_over(harness: Harness) -> None:
    """The next item is StopAsyncIteration, also of what had arrived."""
    stream = await harness.stream()
    await harness.announce(fresh(), fresh())
    await harness.close(stream, "with items waiting")
    for _ in range(3):
        asking = asyncio.ensure_future(_outcome(stream))
        await asyncio.wait({asking}, timeout=harness.options.closing_s)
        if not asking.done():
            asking.cancel()
            raise harness.broken("a closed stream answers StopAsyncIteration", "it waits")
        if asking.result() != "StopAsyncIteration":
            raise harness.broken("a closed stream answers StopAsyncIteration", f"it answered {asking.result()}")


@clause("3.6", "after the last stream was closed, another one works")
async def check_again(harness: Harness) -> None:
    """It gets what comes from then on."""
    for _ in range(3):
        stream = await harness.stream()
        item = fresh()
        await harness.announce(item)
        await harness.all(stream, [item], "a stream that is opened after others were closed works")
        await harness.close(stream, "the last stream")


@clause("3.7", "closing leaves no task behind")
async def check_no_task_left(harness: Harness) -> None:
    """When the last stream is closed, and the backend where it can be."""
    before = asyncio.all_tasks()
    streams = [await harness.stream() for _ in range(3)]
    item = fresh()
    await harness.announce(item)
    await harness.all(streams[0], [item], "what is announced is delivered")
    for stream in streams:
        await harness.close(stream, "a stream")
    await harness.tidy()

    async def gone() -> bool:
        return not asyncio.all_tasks() - before

    names = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks() - before))
    await harness.eventually(gone, "no task is left when everything is closed", f"still running: {names}")


@clause("3.8", "closing leaves no connection behind")
async def check_no_connection_left(harness: Harness) -> None:
    """As many as before, when the last stream is closed, and the backend where it can be."""
    count = harness.options.connections
    if count is None:
        raise NotChecked("no way to count connections was supplied")
    before = await count()
    streams = [await harness.stream() for _ in range(3)]
    item = fresh()
    await harness.announce(item)
    await harness.all(streams[0], [item], "what is announced is delivered")
    for stream in streams:
        await harness.close(stream, "a stream")
    await harness.tidy()
    now = before

    async def gone() -> bool:
        nonlocal now
        now = await count()
        return now <= before

    expected = f"as many connections as before ({before}) when everything is closed"
    await harness.eventually(gone, expected, f"there are {now}")


@clause("3.9", "a stream that is dropped without being closed holds nobody up")
async def check_dropped(harness: Harness) -> None:
    """It may say so with a ResourceWarning; the others go on, and nothing waits for it."""
    kept = await harness.stream()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        dropped: CompletionStream | None = await harness.within(harness.backend.subscribe_completions(), "it returns")
        del dropped
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()
    items = [fresh() for _ in range(20)]
    await harness.announce(*items)
    await harness.all(kept, items, "a stream that was dropped does not hold up the others")


@clause("3.10", "closing is done in time while the server is mute")
async def check_close_while_mute(harness: Harness) -> None:
    """It waits for no answer."""
    stream = await harness.stream()
    await harness.faults.mute()
    try:
        await asyncio.sleep(0.05)
        await harness.close(stream, "while the server is mute")
        await harness.tidy()
    finally:
        await harness.faults.unmute()
