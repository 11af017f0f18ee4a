"""What each guide shows, as a user goes on from there: never run, and everything that is yielded or returned has its type."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import assert_type

from glide import GlideClient, GlideClientConfiguration, NodeAddress
from starlette.requests import Request

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.attaching import Attached, Definition, Recorded, attach, attached, detach, preset
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresBackend, PostgresCheckpoints
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.consumers.options import CheckpointedOptions, SubscribeOptions, WaitOptions
from ffcompletion.options import ConnectOptions
from ffcompletion.otel import Metered, metered, observed
from ffcompletion.producers import Call, completion_call, install, submission_call
from ffcompletion.testing import Check, Execution, Options, Report, check_backend
from ffcompletion.web import CompletionsApp, Grant, completions_app

URL = "postgresql://localhost/app"
ID = "{fp:7}:550e8400-e29b-41d4-a716-446655440000"


async def readme() -> None:
    async with ffc.connect(URL) as backend:
        wanted = ffc.ScannerFilter(namespace="tenant-a")
        async with ffc.subscribe(backend, wanted) as stream:
            assert_type(stream, ffc.Subscription)
            async for completion in stream:
                assert_type(completion.execution_id, ffc.ExecutionId)
                assert_type(completion.outcome, str)
                assert_type(completion.flow_id, ffc.FlowId | None)
        done = await ffc.wait_for_completion(backend, ID, timeout=30, missing="wait", result=True)
        assert_type(done, ffc.CompletionPayload)
        assert_type(done.payload_bytes, bytes | None)
        assert_type(done.kind, ffc.Outcome)
        found = await backend.describe_execution(ID, result=True)
        assert_type(found, ffc.ExecutionSnapshot | None)
        if found is not None:
            assert_type(found.terminal_outcome, str | None)
            assert_type(found.phase, str)
            assert_type(found.result, bytes | None)


def readme_without_a_loop() -> None:
    with ffc.sync.connect("valkey://localhost:6379") as backend:
        assert_type(backend, ffc.sync.Backend)
        assert_type(backend.wait_for_completion(ID, timeout=30, missing="wait"), ffc.CompletionPayload)
        with backend.subscribe(ffc.ScannerFilter("tenant-a"), results=True) as stream:
            assert_type(stream.stats(), ffc.StreamStats)
            assert_type(stream.cursor, ffc.StreamCursor | None)
            for completion in stream:
                assert_type(completion, ffc.CompletionPayload)
        for completion in backend.as_completed([ID]):
            assert_type(completion, ffc.CompletionPayload)
        assert_type(backend.describe_executions([ID]), Sequence[ffc.ExecutionSnapshot | None])
        assert_type(backend.flow_members(ID), Sequence[ffc.ExecutionId])
        assert_type(backend.wait_for_flow(ID), dict[ffc.ExecutionId, ffc.CompletionPayload])
        assert_type(backend.ping(), float)
        assert_type(backend.stats(), ffc.BackendStats)


async def readme_every_completion(store: ffc.FileCheckpoints) -> None:
    async with ffc.connect(URL) as backend:
        start = ffc.StreamCursor.beginning()
        async with ffc.checkpointed(backend, store, "promoter", start=start) as completions:
            assert_type(completions.lag, ffc.Lag)
            async for completion in completions:
                assert_type(completion, ffc.CompletionPayload)
                if completion.cursor is not None:
                    assert_type(completion.cursor.to_bytes(), bytes)
            assert_type(await completions.commit(), None)


def concepts() -> None:
    work = uuid.uuid4()
    execution_id = ffc.ExecutionId(f"{{fp:{work.bytes[-1]}}}:{work}")
    assert_type(execution_id.partition, int)
    assert_type(execution_id.uuid, uuid.UUID)
    assert_type(ffc.ExecutionId.new(), ffc.ExecutionId)
    assert_type(ffc.StreamCursor.from_bytes(b""), ffc.StreamCursor)


async def contract(backend: ffc.CompletionBackend) -> None:
    assert_type(ffc.assert_completion_backend(backend), None)
    assert_type(await backend.subscribe_completions(), ffc.CompletionStream)
    assert_type(await backend.subscribe_completions_filtered(ffc.ScannerFilter.NOOP), ffc.CompletionStream)
    async for completion in await backend.subscribe_completions():
        assert_type(completion, ffc.CompletionPayload)


async def filters() -> None:
    mail = ffc.ScannerFilter("acme", ("queue", "mail"))
    not_bulk = ffc.matching(lambda namespace, queue: queue != "bulk", tag_key="queue")
    wanted = ffc.any_of(mail, ffc.all_of(mail, not_bulk))
    assert_type(wanted, ffc.CompletionFilter)
    assert_type(wanted.tag_key, str | None)
    async with ffc.connect("memory://") as backend, ffc.subscribe(backend, wanted) as stream:
        assert_type(await anext(stream), ffc.CompletionPayload)
        assert_type(stream.stats().filtered, int)
        assert_type(stream.stats().undecided, int)


async def first_program() -> None:
    async with ffc.connect("memory://") as backend:
        assert_type(backend, MemoryBackend)
        async with ffc.subscribe(backend, ffc.ScannerFilter(namespace="tenant-a")) as stream:
            assert_type(backend.emit(ID, "success", namespace="tenant-a"), ffc.CompletionPayload)
            assert_type(await anext(aiter(stream)), ffc.CompletionPayload)
    with embedded.postgres() as server:
        assert_type(server.url, str)


def jobs() -> None:
    reports = Definition(name="reports", table="app.reports", key="id", state="status", outcomes={"done": "success"})
    assert_type(attach(URL, reports), Recorded)
    assert_type(attached(URL), list[Attached])
    assert_type(preset("procrastinate"), Definition)
    assert_type(detach(URL, "reports"), None)
    assert_type(ffc.attached_id("reports", 42), ffc.ExecutionId)
    assert_type(ffc.attached_key(ID), int | uuid.UUID | None)
    assert_type(ffc.attached_flow_id("reports", "batch"), ffc.FlowId)


async def many_processes(backend: ffc.Backend, worker: int) -> None:
    async with ffc.subscribe(backend, partitions=range(worker, 65_536, 4)) as mine:
        assert_type(mine, ffc.Subscription)
        assert_type(await anext(mine), ffc.CompletionPayload)
    async with ffc.subscribe(backend) as stream, ffc.broadcast(stream, overflow="drop") as shared:
        async with ffc.subscribe(shared) as one:
            assert_type(one, ffc.Subscription)
            assert_type(await anext(aiter(one)), ffc.CompletionPayload)
        async with await shared.subscribe_completions() as another:
            assert_type(another.stats(), ffc.StreamStats)


async def memory(backend: ffc.Backend) -> None:
    stats = backend.stats()
    assert_type(stats.dropped, int)
    assert_type(stats.malformed, int)
    assert_type(stats.waiting, int)
    async with ffc.subscribe(backend) as stream:
        assert_type(stream.stats().buffered, int)
        assert_type(stream.stats().overflows, int)


async def metrics() -> None:
    async with ffc.connect("memory://") as backend:
        with observed(backend, "app"):
            async with metered(await backend.subscribe_completions(), "app", "worker") as stream:
                assert_type(stream, Metered)
                assert_type(stream.stats(), ffc.StreamStats)
                assert_type(stream.cursor, ffc.StreamCursor | None)
                assert_type(await anext(stream), ffc.CompletionPayload)
                async for completion in stream:
                    assert_type(completion, ffc.CompletionPayload)


async def operations(backend: ffc.Backend) -> None:
    assert_type(await backend.ping(), float)
    assert_type(backend.stats().state, ffc.BackendState)
    options: ConnectOptions = {"observer": lambda event: print(event.state, event.detail), "buffer_size": 1_000}
    assert_type(ffc.connect(URL, **options), ffc.Backend)
    assert_type(PostgresBackend(URL).stats(), ffc.BackendStats)
    assert_type(ValkeyBackend("valkey://localhost").stats(), ffc.BackendStats)


async def producers() -> None:
    assert_type(await install(URL), str)
    job = ffc.ExecutionId.new()
    client = await GlideClient.create(GlideClientConfiguration([NodeAddress("localhost", 6379)]))
    submitted: Call = submission_call(job, namespace="tenant-a", tags={"queue": "mail"})
    await client.custom_command(submitted)
    await client.custom_command(completion_call(job, "success", result=b"sent"))


async def options_passed_on(
    backend: ffc.Backend, store: ffc.CheckpointStore, of_stream: SubscribeOptions, of_wait: WaitOptions
) -> None:
    async with ffc.subscribe(backend, **of_stream) as stream:
        assert_type(stream, ffc.Subscription)
    assert_type(await ffc.wait_for_completion(backend, ID, **of_wait), ffc.CompletionPayload)
    of_checkpoints: CheckpointedOptions = {"lease": "wait", "save_interval": 1.0}
    async with ffc.checkpointed(backend, store, "name", **of_checkpoints) as completions:
        assert_type(completions.lag.completions, int)


async def notify_when_done(backend: ffc.Backend, sent: list[str]) -> None:
    sent.append((await ffc.wait_for_completion(backend, ID)).outcome)


async def testing() -> None:
    async with ffc.connect("memory://") as backend:
        assert_type(backend.submit(ID), ffc.ExecutionSnapshot)
        backend.faults.disconnect()
        backend.faults.slow(0.5)
        backend.faults.recover()
        await notify_when_done(backend, [])


async def waiting(backend: ffc.Backend) -> None:
    async for done in ffc.as_completed(backend, [ID], timeout=30):
        assert_type(done, ffc.CompletionPayload)
    everyone = await ffc.wait_for_all(backend, [ID])
    assert_type(everyone[ID], ffc.CompletionPayload)
    assert_type(await ffc.wait_for_flow(backend, ID), dict[ffc.ExecutionId, ffc.CompletionPayload])
    try:
        await ffc.wait_for_completion(backend, ID)
    except ffc.NotFound as error:
        assert_type(error.entity, str)


async def authorize(request: Request) -> Grant | None:
    return Grant.of("tenant-a") if "authorization" in request.headers else None


def web(backend: ffc.Backend) -> None:
    app = completions_app(backend, authorize=authorize)
    assert_type(app, CompletionsApp)
    assert_type(app.clients, int)
    assert_type(app.stop(), None)


async def worker(backend: ffc.Backend) -> None:
    async def handle(completion: ffc.CompletionPayload) -> None:
        completions.stop()

    async def give_up(completion: ffc.CompletionPayload, error: Exception) -> None:
        completions.stop(drain=False)

    async with PostgresCheckpoints(URL) as store:
        async with ffc.checkpointed(backend, store, "worker", lease="raise", results=True) as completions:
            done = await completions.run(handle, concurrency=8, attempts=2, failed=give_up)
            assert_type(done, ffc.Processed)
            assert_type(done.cursor, ffc.StreamCursor | None)


def worker_without_a_loop(store: ffc.CheckpointStore) -> None:
    with ffc.sync.connect(URL) as backend, backend.checkpointed(store, "worker", lease="wait") as completions:
        assert_type(completions.lag, ffc.Lag)
        for completion in completions:
            assert_type(completion, ffc.CompletionPayload)
        assert_type(completions.run(print), ffc.Processed)


class Announcer:
    async def announce(self, *executions: Execution) -> None:
        for execution in executions:
            assert_type(execution.execution_id, ffc.ExecutionId)


async def writing_a_backend(check: Check) -> None:
    report = await check_backend(MemoryBackend, Announcer(), Options(holds=300))
    assert_type(report, Report)
    assert_type(report.broken, list[str])
    assert_type(await check(MemoryBackend, Announcer()), None)
