"""For people's own unit tests: a backend in memory that fails on demand; and a kit that goes on when somebody raises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.testing import Execution, check_backend

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"


async def test_a_connection_is_lost_and_comes_back() -> None:
    """The stream stays open, gets nothing meanwhile, and what it missed afterwards."""
    states: list[ffc.BackendState] = []
    async with ffc.connect("memory://", observer=lambda event: states.append(event.state)) as backend:
        async with ffc.subscribe(backend) as stream:
            backend.faults.disconnect()
            backend.emit(ID % 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(stream)
            for question in backend.describe_execution(ID % 1), backend.flow_members((ID % 1)[-36:]):
                with pytest.raises(ffc.Transport, match="lost"):
                    await question
            with pytest.raises(ffc.Transport, match="lost"):
                await backend.subscribe_completions()
            assert backend.stats().state is ffc.BackendState.RECONNECTING
            waiting = asyncio.create_task(stream.__anext__())
            await asyncio.sleep(0)
            backend.faults.reconnect()
            assert (await waiting).execution_id == ID % 1
            assert stream.stats().lost == 0
    assert [state.value for state in states] == ["live", "reconnecting", "live", "idle", "closed"]


async def test_a_wait_bears_it() -> None:
    """What a program does all day, tested without a server: the outcome, though nobody answered for a while."""
    async with ffc.connect("memory://") as backend:
        backend.submit(ID % 1)
        backend.finish(ID % 1, "failed", after=0.05, payload_bytes=b"why")
        waiting = asyncio.create_task(
            ffc.wait_for_completion(backend, ID % 1, timeout=30, poll_interval=0.01, result=True)
        )
        await asyncio.sleep(0.01)
        backend.faults.fail()
        await asyncio.sleep(0.1)
        backend.faults.recover()
        done = await waiting
        assert (done.kind, done.payload_bytes) == (ffc.Outcome.FAILED, b"why")


async def test_answers_are_slow_or_none() -> None:
    """Up to the time-out, and with an error of one's own."""
    async with ffc.connect("memory://", setup_timeout=0.5) as backend:
        backend.faults.slow(0.001)
        await (await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))).aclose()
        backend.faults.slow(30)
        with pytest.raises(ffc.Transport, match=r"no answer within 0\.5 s"):
            await backend.subscribe_completions_from(ffc.StreamCursor.beginning())
        backend.faults.slow(0)
        backend.faults.fail(ffc.Unavailable("describe_execution", "no right"))
        for _ in range(2):
            with pytest.raises(ffc.Unavailable, match="no right"):
                await backend.describe_execution(ID % 1)
        backend.faults.recover()
        assert await backend.describe_execution(ID % 1) is None
        with pytest.raises(ffc.Validation):
            backend.faults.slow(-1)
        with pytest.raises(ffc.Validation):
            backend.finish(ID % 1, after=-1)
        wrong: Any = ConnectionError("of a driver's")
        with pytest.raises(ffc.Validation, match="ConnectionError is no EngineError"):
            backend.faults.fail(wrong)
        assert await backend.ping() < 10
        backend.finish(ID % 1, after=0.0)
    await asyncio.sleep(0.01)


async def test_the_kit_goes_on_when_an_announcer_or_a_factory_raises() -> None:
    """Each clause that it happened in is broken, with what was raised; nothing is raised by the kit."""

    class Announcer:
        async def announce(self, *executions: Execution) -> None:
            raise LookupError(f"cannot announce {len(executions)}")

    report = await check_backend(MemoryBackend, Announcer())
    assert "2.1" in report.broken
    assert "5.1" in report.broken
    assert "LookupError: cannot announce" in str(report)
    assert len(report.results) > 40

    def factory() -> MemoryBackend:
        raise OSError("no such server")

    report = await check_backend(factory, Announcer())
    assert "OSError: no such server" in str(report)
    assert len(report.results) > 40

    class Cancelling:
        async def announce(self, *executions: Execution) -> None:
            raise asyncio.CancelledError

    def leaving() -> MemoryBackend:
        raise SystemExit(3)

    for report in await check_backend(MemoryBackend, Cancelling()), await check_backend(leaving, Announcer()):
        assert {"2.1", "5.1"} <= set(report.broken)
        assert len(report.results) > 40
    assert "SystemExit" in str(report)
