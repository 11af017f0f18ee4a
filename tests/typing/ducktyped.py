"""A user's program with backends of his own, none of which inherits anything: never run, and right for every checker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self, assert_type

import pytest
from typing_extensions import Unpack

import ffcompletion as ffc
from ffcompletion.options import CheckpointedOptions, SubscribeOptions, WaitOptions
from ffcompletion.testing import BackendContract, Execution, Options, Subject, check_backend


class QueueStream:
    """A stream by structure."""

    def __init__(self) -> None:
        self.items: deque[ffc.CompletionPayload] = deque()

    def __aiter__(self) -> QueueStream:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        if not self.items:
            raise StopAsyncIteration
        return self.items.popleft()

    async def aclose(self) -> None:
        self.items.clear()


class Plain:
    """Returns its own class of stream, calls its parameter what it likes."""

    async def subscribe_completions(self) -> QueueStream:
        return QueueStream()

    async def subscribe_completions_filtered(self, only: ffc.CompletionFilter) -> QueueStream:
        return QueueStream()


class Generating:
    async def _items(self, only: ffc.CompletionFilter | None = None) -> AsyncIterator[ffc.CompletionPayload]:
        yield ffc.CompletionPayload(ffc.ExecutionId.new(), "success")

    async def subscribe_completions(self) -> ffc.CompletionStream:
        return ffc.stream_of(self._items())

    async def subscribe_completions_filtered(self, filter: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        return ffc.stream_of(self._items(filter))


class Logged(Generating):
    cursors = ffc.CursorFamily(0xC4)
    cursor_prefix = 0xC4

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, filter: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        at = self.cursors.position(cursor) or 0
        assert_type(self.cursors.at(at + 1), ffc.StreamCursor)
        return ffc.stream_of(self._items(filter))


class FullStream(QueueStream):
    @property
    def cursor(self) -> ffc.StreamCursor | None:
        return None

    def stats(self) -> ffc.StreamStats:
        return ffc.StreamStats()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Full:
    """All that `connect` returns, by structure."""

    async def subscribe_completions(self, *, results: bool = False) -> FullStream:
        return FullStream()

    async def subscribe_completions_filtered(
        self, only: ffc.CompletionFilter, /, *, results: bool = False
    ) -> FullStream:
        return FullStream()

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ffc.ExecutionSnapshot | None:
        return None

    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> list[ffc.ExecutionSnapshot | None]:
        return [None for _ in execution_ids]

    async def flow_members(self, flow_id: str, /) -> list[ffc.ExecutionId]:
        return []

    async def ping(self) -> float:
        return 0.0

    def stats(self) -> ffc.BackendStats:
        return ffc.BackendStats()

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Announcer:
    async def announce(self, *executions: Execution) -> None:
        raise NotImplementedError


class TestPlain(BackendContract):
    @pytest.fixture
    def backend_contract(self) -> Callable[[], AbstractAsyncContextManager[Subject]]:
        @asynccontextmanager
        async def subject() -> AsyncGenerator[Subject]:
            yield Subject(Plain, Announcer(), Options(flood=600))

        return subject


class DictStore:
    def __init__(self) -> None:
        self.kept: dict[str, ffc.Checkpoint] = {}

    async def load(self, name: str) -> ffc.Checkpoint | None:
        return self.kept.get(name)

    async def save(self, name: str, checkpoint: ffc.Checkpoint) -> None:
        self.kept[name] = checkpoint


class LeasingDict(DictStore):
    async def acquire(self, name: str, *, wait: bool) -> None: ...
    async def release(self, name: str) -> None: ...


async def waits(backend: ffc.CompletionBackend, id_: str, **options: Unpack[WaitOptions]) -> ffc.CompletionPayload:
    return await ffc.wait_for_completion(backend, id_, **options)


async def everywhere() -> None:
    for backend in (Plain(), Generating(), Logged(), Full()):
        ffc.assert_completion_backend(backend)
        async with ffc.subscribe(backend) as stream:
            async for done in stream:
                assert_type(done, ffc.CompletionPayload)
        await waits(backend, "x", timeout=1, result=True)
        async for done in ffc.as_completed(backend, ["x"], timeout=3):
            assert_type(done, ffc.CompletionPayload)
        async with ffc.broadcast(await backend.subscribe_completions(), overflow="fail") as shared:
            async with ffc.subscribe(shared) as one:
                assert_type(one, ffc.Subscription)
    async with ffc.subscribe(Plain()) as a_stream:
        assert_type(a_stream, ffc.CompletionStream)
    async with ffc.subscribe(Full(), results=True) as full:
        assert_type(full, ffc.Subscription)
    async with ffc.checkpointed(Logged(), DictStore(), "n", lease="none") as completions:
        async for done in completions:
            assert_type(done, ffc.CompletionPayload)

    async def handler(done: ffc.CompletionPayload) -> int:
        return 3

    async def failed(done: ffc.CompletionPayload, error: Exception) -> None: ...

    options: CheckpointedOptions = {"lease": "wait", "partitions": range(3)}
    async with ffc.checkpointed(Logged(), LeasingDict(), "n", ffc.ScannerFilter("a"), **options) as completions:
        asyncio.get_running_loop().add_signal_handler(15, completions.stop)
        assert_type(await completions.run(handler, concurrency=3, attempts=2, failed=failed), ffc.Processed)
        await completions.commit()
    async with ffc.subscribe(Logged(), cursor=ffc.StreamCursor.beginning(), partitions=range(3)) as resumed:
        assert_type(resumed, ffc.CompletionStream)
    assert_type(await ffc.wait_for_flow(Full(), "x"), dict[ffc.ExecutionId, ffc.CompletionPayload])
    report = await check_backend(Plain, Announcer())
    assert_type(report.sound, bool)
    await check_backend(Generating, Announcer(), Options(patience_s=3))


def blocking(full: Full, **options: Unpack[SubscribeOptions]) -> None:
    with ffc.sync.Backend(full) as backend:
        with backend.subscribe(ffc.any_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b")), **options) as stream:
            for done in stream:
                assert_type(done, ffc.CompletionPayload)
            assert_type(stream.stats(), ffc.StreamStats)
            assert_type(stream.cursor, ffc.StreamCursor | None)
        for done in backend.as_completed(["x"], timeout=3):
            assert_type(done, ffc.CompletionPayload)
        with backend.checkpointed(DictStore(), "n", lease="raise") as completions:
            assert_type(completions.run(print, concurrency=2, failed=lambda done, error: None), ffc.Processed)
        assert_type(backend.describe_execution("x"), ffc.ExecutionSnapshot | None)
