"""A user's program: never run, and right for both type checkers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_never, assert_type

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.testing import Execution, check_backend


class Duck:
    """A backend by structure, whose streams are generators."""

    async def _items(self) -> AsyncIterator[ffc.CompletionPayload]:
        yield ffc.CompletionPayload(ffc.ExecutionId("x"), "success")

    async def subscribe_completions(self) -> ffc.CompletionStream:
        return ffc.stream_of(self._items())

    async def subscribe_completions_filtered(self, wanted: ffc.CompletionFilter, /) -> ffc.CompletionStream:
        return ffc.stream_of(self._items())


class Resumable(Duck):
    """One that keeps a log."""

    cursors = ffc.CursorFamily(0xA7)

    async def subscribe_completions_from(
        self, cursor: ffc.StreamCursor, wanted: ffc.CompletionFilter | None = None, /
    ) -> ffc.CompletionStream:
        assert_type(self.cursors.position(cursor), int | None)
        return ffc.stream_of(self._items())


class Announcer:
    async def announce(self, *executions: Execution) -> None:
        raise NotImplementedError


async def a_backend_of_ones_own(store: ffc.CheckpointStore) -> None:
    """Goes through everything without a cast."""
    duck = Resumable()
    backend: ffc.CompletionBackend = duck
    resumable: ffc.ResumableCompletionBackend = duck
    async with ffc.subscribe(backend) as stream:
        assert_type(stream, ffc.CompletionStream)
        async with ffc.broadcast(stream, overflow="drop") as shared:
            async with await shared.subscribe_completions() as one:
                assert_type(one.stats(), ffc.StreamStats)
                assert_type(one.cursor, ffc.StreamCursor | None)
            async with ffc.subscribe(shared, partitions=range(0, 9, 2)) as another:
                assert_type(another, ffc.Subscription)
    assert_type(await ffc.wait_for_completion(backend, "x"), ffc.CompletionPayload)
    async with ffc.checkpointed(resumable, store, "name") as completions:
        async for done in completions:
            assert_type(done, ffc.CompletionPayload)
    report = await check_backend(lambda: duck, Announcer())
    assert_type(report.sound, bool)


def filters(tenant: ffc.ScannerFilter) -> None:
    assert_type(ffc.any_of(tenant, Even()), ffc.CompletionFilter)
    assert_type(ffc.all_of(tenant, Even()), ffc.CompletionFilter)
    assert_type(ffc.matching(lambda namespace, value: namespace != value, tag_key="k"), ffc.CompletionFilter)


class OnlyPlain(ffc.CompletionBackend):
    async def subscribe_completions(self, /) -> ffc.CompletionStream:
        raise ffc.Unavailable("subscribe_completions")


class Even:
    """A filter of one's own."""

    @property
    def tag_key(self) -> str | None:
        return "n"

    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return tag_value is not None and int(tag_value) % 2 == 0


async def use(backend: ffc.CompletionBackend) -> None:
    async with ffc.subscribe(backend, Even()) as stream:
        assert_type(stream, ffc.CompletionStream)
        async for completion in stream:
            assert_type(completion, ffc.CompletionPayload)
            assert_type(completion.execution_id, ffc.ExecutionId)
            assert_type(completion.execution_id.partition, int)
            assert_type(completion.outcome, str)
            assert_type(completion.flow_id, ffc.FlowId | None)
            assert_type(completion.cursor, ffc.StreamCursor | None)
            assert_type(completion.payload_bytes, bytes | None)
            kind = completion.kind
            match kind:
                case ffc.Outcome.SUCCESS | ffc.Outcome.FAILED | ffc.Outcome.CANCELLED:
                    pass
                case ffc.Outcome.EXPIRED | ffc.Outcome.SKIPPED | ffc.Outcome.OTHER:
                    pass
                case _:
                    assert_never(kind)


async def main() -> None:
    await use(Duck())
    await use(OnlyPlain())
    await use(MemoryBackend())
    async with ffc.connect("memory://", observer=lambda event: print(event.state), buffer_size=5) as backend:
        assert_type(backend, MemoryBackend)
        assert_type(backend.emit("x"), ffc.CompletionPayload)
        assert_type(backend.stats(), ffc.BackendStats)
        await use(backend)
    flt = ffc.ScannerFilter(namespace="tenant-a", instance_tag=("cairn.instance_id", "i-1"))
    assert_type(flt.with_namespace("b"), ffc.ScannerFilter)
    wanted: ffc.CompletionFilter = flt
    assert_type(wanted.matches("a", None), bool)


async def any_server(url: str, stored: ffc.StreamCursor, flt: ffc.ScannerFilter) -> None:
    """The program that a reader of the README tries first."""
    async with ffc.connect(url, buffer_size=5, pool=None) as backend:
        assert_type(backend, ffc.Backend)
        async with ffc.subscribe(backend) as stream:
            async for completion in stream:
                assert_type(completion, ffc.CompletionPayload)
            assert_type(stream.stats(), ffc.StreamStats)
            assert_type(stream.cursor, ffc.StreamCursor | None)
        async with ffc.subscribe(backend, flt, results=True, cursor=stored, partitions=range(9)) as stream:
            assert_type(stream, ffc.Subscription)
        async with await backend.subscribe_completions(results=True) as stream:
            assert_type(stream, ffc.Subscription)
        assert_type(await backend.subscribe_completions_filtered(flt, results=True), ffc.Subscription)


async def from_a_log(backend: ffc.Backend, stored: ffc.StreamCursor) -> None:
    if isinstance(backend, ffc.ResumableBackend):
        assert_type(backend, ffc.ResumableBackend)
        assert_type(await backend.subscribe_completions_from(stored, results=True), ffc.Subscription)


async def from_anybody_s_log(backend: ffc.CompletionBackend, stored: ffc.StreamCursor) -> None:
    if isinstance(backend, ffc.ResumableCompletionBackend):
        assert_type(backend, ffc.ResumableCompletionBackend)
        assert_type(await backend.subscribe_completions_from(stored), ffc.CompletionStream)
        async with ffc.subscribe(backend, cursor=stored) as stream:
            assert_type(stream, ffc.CompletionStream)


async def of_whoever_knows_flows(backend: ffc.CompletionBackend) -> None:
    if isinstance(backend, ffc.FlowBackend):
        assert_type(await ffc.wait_for_flow(backend, "x"), dict[ffc.ExecutionId, ffc.CompletionPayload])


async def wait(backend: ffc.Backend, store: ffc.CheckpointStore, ids: list[str]) -> None:
    assert_type(await ffc.wait_for_completion(backend, ids[0], timeout=1, missing="wait"), ffc.CompletionPayload)
    async for done in ffc.as_completed(backend, ids):
        assert_type(done, ffc.CompletionPayload)
    found = await ffc.wait_for_all(backend, ids)
    assert_type(found, dict[str, ffc.CompletionPayload])
    assert_type(found[ids[0]], ffc.CompletionPayload)
    known = [ffc.ExecutionId(id_) for id_ in ids]
    assert_type(await ffc.wait_for_all(backend, known), dict[ffc.ExecutionId, ffc.CompletionPayload])
    assert_type((await ffc.wait_for_all(backend, ("x", "y")))["x"].outcome, str)
    assert_type(await backend.describe_execution(ids[0]), ffc.ExecutionSnapshot | None)
    async with ffc.checkpointed(backend, store, "name") as completions:
        async for done in completions:
            assert_type(done, ffc.CompletionPayload)
    async with ffc.broadcast(await backend.subscribe_completions(), overflow="wait") as shared:
        await use(shared)


def plain() -> None:
    with ffc.sync.connect("memory://") as backend:
        assert_type(backend.wait_for_completion("x"), ffc.CompletionPayload)
        for done in backend.subscribe():
            assert_type(done, ffc.CompletionPayload)
