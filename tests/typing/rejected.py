"""Each marked line is an error for both type checkers; a mark on a line that is none is an error too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import ffcompletion as ffc


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


a: ffc.CompletionBackend = NoFiltered()  # rejected
b: ffc.CompletionBackend = NotAsync()  # rejected
c: ffc.CompletionBackend = WrongParameter()  # rejected
d: ffc.CompletionBackend = WrongItem()  # rejected
e: ffc.CompletionFilter = NoTagKey()  # rejected
ffc.ScannerFilter(namespace=7)  # rejected
ffc.ScannerFilter(instance_tag="key=value")  # rejected
ffc.connect("memory://", nonsense=1)  # rejected


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
    ffc.subscribe(plain, results=True)  # rejected
    ffc.subscribe(backend, resuls=True)  # rejected
    await backend.subscribe_completions_from(ffc.StreamCursor.beginning())  # rejected
    backend.emit("x")  # rejected
    ffc.connect("postgresql://x/y", pool_size="3")  # rejected
    ffc.stream_of(integers())  # rejected
    ffc.any_of(NoTagKey())  # rejected
    ffc.matching(lambda namespace: True)  # rejected
    ffc.CursorFamily("x")  # rejected
    await ffc.subscribe(backend)  # rejected
