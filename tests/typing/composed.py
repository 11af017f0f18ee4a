"""A user's own functions around ours: wrapped, decorated, handed to threads; never run, and right for every checker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, Self, TypeVar, assert_type

from typing_extensions import Unpack

import ffcompletion as ffc
from ffcompletion.options import CheckpointedOptions, PartitionOptions, StreamOptions, SubscribeOptions

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=ffc.CompletionStream)


def retried(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(function)
    async def again(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return await function(*args, **kwargs)
            except ffc.Transport:
                await asyncio.sleep(1)

    return again


def bound(function: Callable[Concatenate[ffc.Backend, P], R], backend: ffc.Backend) -> Callable[P, R]:
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(backend, *args, **kwargs)

    return inner


async def decorated(backend: ffc.Backend, ids: list[str]) -> None:
    assert_type(await retried(ffc.wait_for_completion)(backend, ids[0], timeout=3), ffc.CompletionPayload)
    assert_type(await bound(ffc.wait_for_completion, backend)(ids[0], missing="wait"), ffc.CompletionPayload)
    assert_type(await asyncio.wait_for(ffc.wait_for_all(backend, ids), 3), dict[str, ffc.CompletionPayload])
    patient = functools.partial(ffc.wait_for_completion, backend, timeout=None, missing="wait")
    assert_type(await patient(ids[0]), ffc.CompletionPayload)
    tasks = [asyncio.create_task(ffc.wait_for_completion(backend, id_)) for id_ in ids]
    assert_type([task.result() for task in tasks], list[ffc.CompletionPayload])
    known = tuple(map(ffc.ExecutionId, ids))
    found, flow = await asyncio.gather(ffc.wait_for_all(backend, known), ffc.wait_for_flow(backend, "x"))
    assert_type((found | flow)[known[0]], ffc.CompletionPayload)


def submitted(pool: ThreadPoolExecutor, backend: ffc.sync.Backend, id_: str) -> Future[ffc.CompletionPayload]:
    return pool.submit(backend.wait_for_completion, id_, timeout=3)


async def in_a_thread(backend: ffc.sync.Backend, ids: set[str]) -> Mapping[str, ffc.CompletionPayload]:
    assert_type(await asyncio.to_thread(backend.wait_for_completion, "x", timeout=3), ffc.CompletionPayload)
    return await asyncio.to_thread(backend.wait_for_all, ids)


class Counting:
    """Around anybody's backend."""

    def __init__(self, inner: ffc.CompletionBackend) -> None:
        self.inner = inner
        self.opened = 0

    async def subscribe_completions(self) -> ffc.CompletionStream:
        self.opened += 1
        return await self.inner.subscribe_completions()

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        self.opened += 1
        return await self.inner.subscribe_completions_filtered(wanted)


class CountingLog(Counting):
    """Around one that keeps a log."""

    def __init__(self, inner: ffc.ResumableCompletionBackend) -> None:
        super().__init__(inner)
        self.log = inner

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, wanted: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        return await self.log.subscribe_completions_from(cursor, wanted)


async def wrapped(backend: ffc.Backend, store: ffc.CheckpointStore, start: ffc.StreamCursor | None) -> None:
    counting = Counting(backend)
    await ffc.wait_for_completion(counting, "x")
    if isinstance(backend, ffc.ResumableBackend):
        log = CountingLog(backend)
        async with ffc.checkpointed(log, store, "n", start=start) as completions:
            assert_type(completions, ffc.Checkpointed)
        async with ffc.subscribe(log, cursor=start, partitions=None) as stream:
            assert_type(stream, ffc.CompletionStream)
    async with ffc.broadcast(await counting.subscribe_completions(), overflow="wait") as shared:
        many: list[ffc.CompletionBackend] = [shared, counting, backend]
        for each in many:
            ffc.assert_completion_backend(each)


async def perhaps(backend: ffc.CompletionBackend, cursor: ffc.StreamCursor | None) -> None:
    if cursor is not None and isinstance(backend, ffc.ResumableCompletionBackend):
        opened = ffc.subscribe(backend, cursor=cursor)
    else:
        opened = ffc.subscribe(backend)
    async with opened as stream:
        assert_type(stream, ffc.CompletionStream)


async def taken(stream: S, count: int) -> tuple[S, list[ffc.CompletionPayload]]:
    return stream, [await anext(aiter(stream)) for _ in range(count)]


async def with_results(backend: ffc.Backend, **options: Unpack[SubscribeOptions]) -> AsyncGenerator[bytes]:
    async with ffc.subscribe(backend, **options) as stream:
        same, items = await taken(stream, 3)
        assert_type(same, ffc.Subscription)
        for item in items:
            yield item.payload_bytes or b""


async def of_any(backend: ffc.CompletionBackend, **options: Unpack[PartitionOptions]) -> ffc.CompletionPayload:
    async with ffc.subscribe(backend, ffc.ScannerFilter("a"), **options) as stream:
        return await anext(aiter(stream))


async def of_a_log(backend: ffc.ResumableCompletionBackend, **options: Unpack[StreamOptions]) -> None:
    async with ffc.subscribe(backend, **options) as stream:
        assert_type(stream, ffc.CompletionStream)


class App(NamedTuple):
    backend: ffc.Backend
    store: ffc.CheckpointStore


class HasBackend(Protocol):
    @property
    def backend(self) -> ffc.Backend: ...


def state_of(app: HasBackend) -> ffc.BackendState:
    return app.backend.stats().state


class Worker(Generic[R]):
    """With its options in one place, and what each item came to."""

    options: ClassVar[CheckpointedOptions] = {"save_interval": 1.0, "results": True}

    def __init__(self, app: App, name: str, handle: Callable[[ffc.CompletionPayload], Awaitable[R]]) -> None:
        self.app = app
        self.name = name
        self.handle = handle
        self.results: dict[ffc.ExecutionId, R] = {}

    async def _one(self, completion: ffc.CompletionPayload) -> None:
        self.results[completion.execution_id] = await self.handle(completion)

    async def _failed(self, completion: ffc.CompletionPayload, error: Exception) -> None:
        raise error

    async def __call__(self) -> int:
        assert_type(state_of(self.app), ffc.BackendState)
        async with ffc.checkpointed(self.app.backend, self.app.store, self.name, **self.options) as completions:
            done = await completions.run(self._one, failed=self._failed, attempts=3)
            return done.processed + done.failed


class Opened:
    """Both for as long as its block runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.backend = await self._stack.enter_async_context(ffc.connect(self.url))
        self.stream = await self._stack.enter_async_context(ffc.subscribe(self.backend, results=True))
        assert_type(self.backend, ffc.Backend)
        assert_type(self.stream, ffc.Subscription)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
