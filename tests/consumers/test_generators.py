"""``stream_of``: an async generator as a stream that keeps the contract; and cursors of a family of one's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

import ffcompletion as ffc
from ffcompletion.testing import Execution, Options, check_backend

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")


class Log:
    """A backend whose streams are generators over a list; it filters, and it resumes by cursors of its own."""

    cursors = ffc.CursorFamily(0xA7)

    def __init__(self) -> None:
        self.entries: list[Execution] = []
        self.grown = asyncio.Condition()

    async def announce(self, *executions: Execution) -> None:
        async with self.grown:
            self.entries += executions
            self.grown.notify_all()

    async def _completions(self, at: int, wanted: ffc.CompletionFilter) -> AsyncIterator[ffc.CompletionPayload]:
        while True:
            async with self.grown:
                while at >= len(self.entries):
                    await self.grown.wait()
            item, at = self.entries[at], at + 1
            tag = None if wanted.tag_key is None else item.tags.get(wanted.tag_key)
            try:
                admitted = wanted.is_noop() or wanted.matches(item.namespace, tag)
            except Exception:  # somebody else's
                admitted = False
            if admitted:
                flow = None if item.flow_id is None else ffc.FlowId(item.flow_id)
                id_ = ffc.ExecutionId(item.execution_id)
                yield ffc.CompletionPayload(id_, item.outcome, None, 0, flow, self.cursors.at(at))

    async def subscribe_completions(self) -> ffc.CompletionStream:
        return ffc.stream_of(self._completions(len(self.entries), ffc.ScannerFilter.NOOP))

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        return ffc.stream_of(self._completions(len(self.entries), wanted))

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, wanted: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        at = self.cursors.position(cursor)
        if at is not None and at > len(self.entries):
            raise ffc.Validation("cursor", "it is of the future")
        return ffc.stream_of(
            self._completions(len(self.entries) if at is None else at, wanted or ffc.ScannerFilter.NOOP)
        )


@pytest.mark.timeout(120)
async def test_a_backend_of_generators_keeps_the_contract() -> None:
    """Every clause that needs no server, resuming by a family of one's own among them."""
    log = Log()
    report = await check_backend(lambda: log, log, Options(flood=300, patience_s=10))
    # The whole log is in memory, and grows: what is looked at by 4.3 is the process.
    assert set(report.broken) <= {"4.3"}, report
    held = {result.clause for result in report.results if result.outcome == "holds"}
    assert {"2.5", "3.4", "3.7", "3.9", "8.1", "8.6", "8.12"} <= held


async def _numbers(log: list[str], failure: Exception | None = None) -> AsyncIterator[ffc.CompletionPayload]:
    try:
        for _ in range(3):
            await asyncio.sleep(0)
            yield ffc.CompletionPayload(ID, "success")
        if failure is not None:
            raise failure
    finally:
        log.append("closed")


async def test_an_end_and_an_error_are_the_stream_s() -> None:
    """After what came before; and each time it is asked again."""
    log: list[str] = []
    stream = ffc.stream_of(_numbers(log))
    assert len([item async for item in stream]) == 3
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()
    failing = ffc.stream_of(_numbers(log, ffc.Unavailable("x")))
    for _ in range(3):
        await anext(failing)
    for _ in range(2):
        with pytest.raises(ffc.Unavailable):
            await anext(failing)
    await failing.aclose()
    assert log == ["closed", "closed"]


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), SystemExit(3)])
async def test_what_would_end_a_task_in_silence_is_an_error_of_the_stream(raised: BaseException) -> None:
    """An end that nobody asked for: it was not the consumer who cancelled."""

    async def leaves() -> AsyncIterator[ffc.CompletionPayload]:
        yield ffc.CompletionPayload(ID, "success")
        raise raised

    async with ffc.stream_of(leaves()) as stream:
        await anext(stream)
        for _ in range(2):
            with pytest.raises(ffc.Unavailable, match=type(raised).__name__):
                await anext(stream)


async def test_closing_ends_the_generator_and_every_wait() -> None:
    """Whether it has begun, waits, or is in the middle."""
    log: list[str] = []

    async def waits() -> AsyncIterator[ffc.CompletionPayload]:
        try:
            await asyncio.Event().wait()
            yield ffc.CompletionPayload(ID, "success")
        finally:
            log.append("closed")

    unread = ffc.stream_of(waits())
    await unread.aclose()
    async with ffc.stream_of(waits()) as stream:
        waiters = [asyncio.create_task(stream.__anext__()) for _ in range(2)]
        await asyncio.sleep(0.01)
    for waiter in waiters:
        with pytest.raises(StopAsyncIteration):
            await waiter
    assert log == ["closed"]
    middle = ffc.stream_of(_numbers(log))
    await anext(middle)
    await middle.aclose()
    await middle.aclose()
    assert log == ["closed", "closed"]
    with pytest.raises(StopAsyncIteration):
        await anext(middle)


async def test_one_that_is_dropped_is_noticed_and_released() -> None:
    """With a warning, and without a task left behind."""
    log: list[str] = []
    stream = ffc.stream_of(_numbers(log))
    await anext(stream)
    with pytest.warns(ResourceWarning, match="unclosed stream of a generator"):
        del stream
        gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert log == ["closed"]


async def test_our_backends_refuse_them() -> None:
    """As any other backend's."""
    with pytest.raises(ffc.Validation, match="does not belong"):
        async with ffc.subscribe(ffc.connect("memory://"), cursor=ffc.CursorFamily(0xA7).at(3)):
            pass
