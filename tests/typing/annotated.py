"""What public functions return, written down by the names that they are imported by: never run, and right for every checker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, assert_type

from psycopg import AsyncConnection
from psycopg.rows import DictRow, TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool

import ffcompletion as ffc
from ffcompletion.backends.memory import Faults
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.options import ConnectOptions, Lease, Missing, Overflow, Password, PostgresOptions
from ffcompletion.producers import Call, completion_call

URL = "postgresql://localhost/app"
_Id = TypeVar("_Id", bound=str)


class Signed(AsyncConnection[TupleRow]):
    """As one that fetches a token before it connects."""


async def pools() -> None:
    """However they were made, and nobody has written down what their connections are."""
    pool = AsyncConnectionPool(URL, open=False)
    assert_type(ffc.connect(URL, pool=pool), ffc.Backend)
    ffc.connect(URL, pool=AsyncConnectionPool(URL, open=False, kwargs={"autocommit": True}))
    ffc.connect(URL, pool=AsyncNullConnectionPool(URL, open=False))
    of_dicts = AsyncConnectionPool(
        URL, connection_class=AsyncConnection[DictRow], kwargs={"row_factory": dict_row}, open=False
    )
    ffc.connect(URL, pool=of_dicts)
    ffc.connect(URL, pool=AsyncConnectionPool(URL, connection_class=Signed, open=False))
    annotated: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(URL, open=False)
    PostgresBackend(URL, pool=annotated)
    options: PostgresOptions = {"pool": annotated, "linger": 0.0}
    ffc.connect(URL, **options)
    async with AsyncConnectionPool(URL, open=False) as opened:
        ffc.connect(URL, pool=opened)


def checkpoints(backend: ffc.Backend, store: ffc.CheckpointStore, lease: Lease) -> ffc.Checkpointed:
    return ffc.checkpointed(backend, store, "name", lease=lease, results=True)


async def through(completions: ffc.Checkpointed, handler: Callable[[ffc.CompletionPayload], None]) -> ffc.Processed:
    async def handle(completion: ffc.CompletionPayload) -> None:
        handler(completion)

    return await completions.run(handle, concurrency=2)


def share(stream: ffc.CompletionStream, overflow: Overflow = "drop") -> ffc.Broadcast:
    return ffc.broadcast(stream, overflow=overflow)


async def branch(shared: ffc.Broadcast) -> ffc.BroadcastStream:
    return await shared.subscribe_completions()


def memory(options: ConnectOptions) -> ffc.MemoryBackend:
    made: ffc.MemoryBackend = ffc.connect("memory://", buffer_size=options.get("buffer_size", 100))
    suffer(made.faults)
    return made


def suffer(faults: Faults) -> None:
    faults.disconnect()


async def stored(store: ffc.FileCheckpoints) -> Sequence[ffc.StoredCheckpoint]:
    return await store.stored()


def call(execution_id: ffc.ExecutionId) -> Call:
    return completion_call(execution_id, "success")


def connected(password: Password) -> ffc.Backend:
    return ffc.connect(URL, password=password)


def opened(backend: ffc.Backend, *wanted: ffc.CompletionFilter) -> AbstractAsyncContextManager[ffc.Subscription]:
    return ffc.subscribe(backend, ffc.any_of(*wanted))


async def outcomes(backend: ffc.CompletionBackend, ids: Iterable[_Id], missing: Missing) -> Mapping[_Id, str]:
    found = await ffc.wait_for_all(backend, ids, missing=missing)
    return {id_: done.outcome for id_, done in found.items()}


def blocking(backend: ffc.sync.Backend, store: ffc.FileCheckpoints, ids: list[str]) -> ffc.sync.Checkpointed:
    stream: ffc.sync.Stream = backend.subscribe(ffc.all_of(*[ffc.ScannerFilter("a")]))
    stream.close()
    assert_type(backend.wait_for_all(ids)[ids[0]], ffc.CompletionPayload)
    return backend.checkpointed(store, "name", lease="raise")


async def of_one_s_own(stream: ffc.GeneratorStream) -> None:
    async with stream:
        assert_type(await anext(stream), ffc.CompletionPayload)
