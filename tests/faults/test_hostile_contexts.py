"""Somebody's filter or observer that goes by the context, changes it, or cancels the task that it is called in."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from contextvars import Context, ContextVar
from typing import Any, final

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.contract.stats import BackendEvent
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, eventually, some

_tenant: ContextVar[str] = ContextVar("_tenant", default="nobody")


@final
class _OfTheContext:
    """Admits the tenant on whose behalf it is asked, and forgets who that was."""

    tag_key = None

    def is_noop(self) -> bool:
        return False

    def matches(self, namespace: str | None, _: str | None, /) -> bool:
        admitted = namespace == _tenant.get()
        _tenant.set("somebody else")
        return admitted


@final
class _Cancels:
    """Cancels whatever task it finds itself in."""

    tag_key = None

    def is_noop(self) -> bool:
        return False

    def matches(self, *_: str | None) -> bool:
        task = asyncio.current_task()
        assert task is not None
        return task.cancel()


async def test_a_filter_finds_the_context_that_its_stream_was_opened_in(world: World) -> None:
    """Not that of whoever came first, whose task reads for all; also one and the same filter."""
    shared = _OfTheContext()
    async with world.backend() as backend:

        async def opened(tenant: str, wanted: _OfTheContext) -> Any:
            _tenant.set(tenant)
            return await backend.subscribe_completions_filtered(wanted)

        streams = [
            await asyncio.create_task(opened(tenant, wanted))
            for tenant in ("a", "b")
            for wanted in (shared, _OfTheContext())
        ]
        ours, others = done(namespace="a"), done(namespace="b")
        await world.announce(ours, others, ours, others)
        for stream, wanted in zip(streams, (ours, ours, others, others), strict=True):
            assert {item.execution_id for item in await some(stream, 2)} == {wanted.execution_id}
        for stream in streams:
            await stream.aclose()


class _Request:
    """What a web framework keeps in the context."""


_request: ContextVar[_Request] = ContextVar("_request")


async def test_whoever_came_first_is_not_kept_by_what_runs_for_all(world: World) -> None:
    """Streams and waits share tasks; what stood in the context of the first goes with its own task."""
    running = done()

    async def first(backend: ffc.Backend) -> weakref.ref[_Request]:
        _request.set(_Request())
        async with ffc.subscribe(backend), ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True):
            with pytest.raises(TimeoutError):
                await ffc.wait_for_completion(backend, running.execution_id, timeout=0.3)
            streams.append(await asyncio.create_task(later(backend), context=Context()))
        return weakref.ref(_request.get())

    async def later(backend: ffc.Backend) -> ffc.CompletionStream:
        return await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))

    def gone() -> bool:
        # A timer that was cancelled holds its context until the loop forgets it, which it does once there are many.
        for _ in range(200):
            asyncio.get_running_loop().call_later(600, print).cancel()
        gc.collect()
        return request() is None

    streams: list[ffc.CompletionStream] = []
    async with world.backend(**({"linger": 60} if world.networked else {})) as backend:
        await world.begins(running)
        request = await asyncio.create_task(first(backend))
        await eventually(gone)
        item = done(namespace="a")
        await world.announce(item)
        assert (await anext(streams[0])).execution_id == item.execution_id
        await streams[0].aclose()


async def test_a_filter_that_cancels_its_task_cancels_nobody_elses(world: World) -> None:
    """On Valkey nobody's filter was asked any more, for as long as the backend was open."""
    async with world.backend() as backend:
        hostile: Any = await backend.subscribe_completions_filtered(_Cancels())
        streams: list[Any] = [
            await backend.subscribe_completions_filtered(ffc.ScannerFilter("a")),
            await backend.subscribe_completions(),
        ]
        for _ in range(3):
            items = [done(namespace="a"), done(namespace="a")]
            await world.announce(*items)
            for stream in streams:
                assert {item.execution_id for item in await some(stream, 2)} == {item.execution_id for item in items}
        for stream in (hostile, *streams):
            await stream.aclose()


class _CancelsOurs(logging.Handler):
    """As the one above, where it is told of something."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.cancel()


async def test_a_log_handler_that_cancels_its_task_cancels_no_reader(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What tells of broken data is the task that reads for all."""
    log, handler = logging.getLogger("ffcompletion"), _CancelsOurs()
    log.addHandler(handler)
    try:
        async with world.backend() as backend:
            streams: list[Any] = [
                await backend.subscribe_completions(),
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a")),
            ]
            if isinstance(world, ValkeyWorld):
                await world.command("PUBLISH", "ff:dag:completions", "{")
            elif isinstance(world, PostgresWorld):
                await world.sql(
                    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                    " VALUES (-1, gen_random_uuid(), 'success', 1)"
                )
            await eventually(lambda: "skipped" in caplog.text or not world.networked)
            item = done(namespace="a")
            await world.announce(item)
            for stream in streams:
                assert (await some(stream, 1))[0].execution_id == item.execution_id
                await stream.aclose()
    finally:
        log.removeHandler(handler)


async def test_an_observer_that_cancels_its_task_cancels_nobody_elses(world: World) -> None:
    told: list[BackendEvent] = []

    def observer(event: BackendEvent) -> None:
        told.append(event)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with world.backend(observer=observer) as backend:
        stream: Any = await backend.subscribe_completions()
        for times in (1, 2):
            await eventually(lambda times=times: _lives(told) >= times or not world.networked)
            item = done()
            await world.announce(item)
            assert (await some(stream, 1))[0].execution_id == item.execution_id
            await world.drop_connections()
        await stream.aclose()
    assert told


def _lives(told: list[BackendEvent]) -> int:
    return sum(event.state is ffc.BackendState.LIVE for event in told)
