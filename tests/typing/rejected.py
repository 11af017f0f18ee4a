"""Each marked line is an error for both type checkers; a mark on a line that is none is an error too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from psycopg_pool import ConnectionPool

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach
from ffcompletion.options import ConnectOptions
from ffcompletion.otel import metered, observed
from ffcompletion.producers import completion_call, install
from ffcompletion.testing import Execution, Options, check_backend
from ffcompletion.web import Grant, completions_app


class NoFiltered:
    async def subscribe_completions(self) -> ffc.CompletionStream:
        raise NotImplementedError


class NotAsync:
    def subscribe_completions(self) -> ffc.CompletionStream:
        raise NotImplementedError

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        raise NotImplementedError


class WrongParameter:
    async def subscribe_completions(self) -> ffc.CompletionStream:
        raise NotImplementedError

    async def subscribe_completions_filtered(self, wanted: int, /) -> ffc.CompletionStream:
        raise NotImplementedError


class WrongItem:
    async def _items(self) -> AsyncIterator[int]:
        yield 1

    async def subscribe_completions(self) -> AsyncIterator[int]:
        return self._items()

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> AsyncIterator[int]:
        return self._items()


class NoTagKey:
    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return True


async def integers() -> AsyncIterator[int]:
    yield 1


class Good(NoFiltered):
    async def subscribe_completions_filtered(self, only: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        raise NotImplementedError


class Resumable(Good):
    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, only: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        raise NotImplementedError


class WrongCursor(Good):
    async def subscribe_completions_from(
        self, cursor: bytes, only: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        raise NotImplementedError


class Describing(Good):
    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ffc.ExecutionSnapshot | None:
        return None

    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ffc.ExecutionSnapshot | None]:
        return []


class NoClose:
    def __aiter__(self) -> NoClose:
        return self

    async def __anext__(self) -> ffc.CompletionPayload:
        raise StopAsyncIteration


class HalfAStore:
    async def load(self, name: str, /) -> ffc.Checkpoint | None:
        return None


class Announcer:
    async def announce(self, *executions: Execution) -> None:
        raise NotImplementedError


a: ffc.CompletionBackend = NoFiltered()  # rejected: subscribe_completions_filtered
b: ffc.CompletionBackend = NotAsync()  # rejected: subscribe_completions
c: ffc.CompletionBackend = WrongParameter()  # rejected: subscribe_completions_filtered
d: ffc.CompletionBackend = WrongItem()  # rejected: subscribe_completions
e: ffc.CompletionFilter = NoTagKey()  # rejected: tag_key
ffc.ScannerFilter(namespace=7)  # rejected
ffc.ScannerFilter(instance_tag="key=value")  # rejected
ffc.connect("memory://", nonsense=1)  # rejected
print(ffc.wait_for_compltion)  # rejected


async def use(backend: ffc.CompletionBackend, payload: ffc.CompletionPayload) -> None:
    await backend.publish(payload)  # rejected
    payload.outcome = "other"  # rejected
    async for item in await backend.subscribe_completions():
        item.nonsense  # rejected


async def wait(backend: ffc.CompletionBackend) -> None:
    await ffc.wait_for_completion(backend, 7)  # rejected
    await ffc.wait_for_completion(backend, "x", missing="perhaps")  # rejected
    ffc.broadcast(await backend.subscribe_completions())  # rejected
    ffc.checkpointed(backend, object(), "name")  # rejected


async def more(plain: ffc.CompletionBackend, backend: ffc.Backend) -> None:
    async with ffc.subscribe(plain) as stream:
        stream.stats()  # rejected
        ffc.checkpointed(ffc.broadcast(stream, overflow="drop"), ffc.FileCheckpoints("x"), "x")  # rejected
    ffc.subscribe(plain, results=True)  # rejected
    ffc.subscribe(backend, resuls=True)  # rejected
    await backend.subscribe_completions_from(ffc.StreamCursor.beginning())  # rejected
    backend.emit("x")  # rejected
    ffc.connect("postgresql://x/y", pool_size="3")  # rejected
    ffc.stream_of(integers())  # rejected
    ffc.any_of(NoTagKey())  # rejected
    ffc.any_of()  # rejected
    ffc.all_of()  # rejected
    ffc.all_of(ffc.ScannerFilter("a"), None)  # rejected
    ffc.all_of([ffc.ScannerFilter("a")])  # rejected
    ffc.checkpointed(plain, ffc.FileCheckpoints("x"), "x")  # rejected: subscribe_completions_from
    ffc.connect("postgresql://x/y", pool="postgresql://x/y")  # rejected
    ffc.connect("postgresql://x/y", pool=ConnectionPool("postgresql://x/y"))  # rejected
    (await ffc.wait_for_all(backend, ["x"]))[0]  # rejected
    ffc.matching(lambda namespace: True)  # rejected
    ffc.CursorFamily("x")  # rejected
    await ffc.subscribe(backend)  # rejected


async def a_backend_of_ones_own(store: ffc.CheckpointStore, stream: ffc.CompletionStream) -> None:
    ffc.subscribe(NoFiltered())  # rejected
    await ffc.wait_for_completion(NoFiltered(), "x")  # rejected: subscribe_completions_filtered
    ffc.as_completed(NoFiltered(), ["x"])  # rejected: subscribe_completions_filtered
    ffc.checkpointed(NoFiltered(), store, "x")  # rejected: subscribe_completions_filtered
    ffc.checkpointed(Resumable(), HalfAStore(), "x")  # rejected: save
    ffc.checkpointed(Good(), store, "x")  # rejected: subscribe_completions_from
    ffc.checkpointed(Good(), store, "x", results=True, lease="wait")  # rejected: subscribe_completions_from
    ffc.checkpointed(WrongCursor(), store, "x")  # rejected: subscribe_completions_from
    ffc.broadcast(NoClose(), overflow="drop")  # rejected: aclose
    await check_backend(NoFiltered, Announcer())  # rejected
    ffc.sync.Backend(Good())  # rejected


async def options_that_are_none(backend: ffc.Backend, store: ffc.CheckpointStore) -> None:
    await ffc.wait_for_completion(backend, "x", timout=3)  # rejected
    await ffc.wait_for_completion(backend, "x", 3)  # rejected
    await ffc.wait_for_flow(backend, "x", missing=None)  # rejected
    ffc.as_completed(backend, ["x"], poll_interval="1")  # rejected
    ffc.checkpointed(backend, store, "x", lease="perhaps")  # rejected
    ffc.checkpointed(backend, store, "x", leese="wait")  # rejected
    ffc.subscribe(backend, partitions=3)  # rejected
    ffc.subscribe(backend, cursor=b"x")  # rejected
    ffc.subscribe(Good(), cursor=ffc.StreamCursor.empty())  # rejected
    ffc.subscribe(WrongCursor(), cursor=ffc.StreamCursor.empty())  # rejected
    await ffc.wait_for_flow(Good(), "x")  # rejected
    await ffc.wait_for_flow(Describing(), "x")  # rejected: flow_members
    async with ffc.checkpointed(backend, store, "x") as completions:
        await completions.run(lambda done: None)  # rejected
        completions.stop(True)  # rejected
        completions.stats()  # rejected
        completions.lag = ffc.Lag()  # rejected
    with ffc.sync.connect("memory://") as blocking, ThreadPoolExecutor() as pool:
        pool.submit(blocking.wait_for_completion, "x", timout=3)  # rejected
        blocking.wait_for_completion("x", timout=3)  # rejected
        blocking.subscribe(result=True)  # rejected
        blocking.checkpointed(store, "x", lease=True)  # rejected


async def in_each_guide(backend: ffc.Backend, store: ffc.CheckpointStore, payload: ffc.CompletionPayload) -> None:
    ffc.ExecutionId(7)  # rejected
    ffc.StreamCursor.from_bytes("x")  # rejected
    ffc.assert_completion_backend()  # rejected
    ffc.any_of(ffc.ScannerFilter("a"), "b")  # rejected
    ffc.attached_id("reports", 1.5)  # rejected
    Definition(name="reports", table="reports", key="id", state="status", outcomes=["done"])  # rejected
    attach("postgresql://x/y", "reports")  # rejected
    ffc.broadcast(await backend.subscribe_completions(), overflow="forget")  # rejected
    metered(await backend.subscribe_completions(), "app")  # rejected
    metered([payload], "app", "worker")  # rejected
    observed(store, "app")  # rejected
    options: ConnectOptions = {"buffer_sise": 3}  # rejected
    await install(b"postgresql://x/y")  # rejected
    completion_call(ffc.ExecutionId.new(), 7)  # rejected
    ffc.connect("memory://").emit(7)  # rejected
    backend.faults.disconnect()  # rejected
    aiter(ffc.wait_for_all(backend, ["x"]))  # rejected
    completions_app(backend, authorize=lambda request: "tenant-a")  # rejected
    Grant.of(7)  # rejected
    Options(holds="300")  # rejected
    ffc.connect("postgresql://x/y", **options).publish(payload)  # rejected
    with ffc.sync.connect("memory://") as blocking:
        await blocking.wait_for_completion("x")  # rejected
        blocking.subscribe(filter="tenant-a")  # rejected
