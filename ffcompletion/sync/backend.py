"""A backend for code that blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from typing import TypeVar, final

from typing_extensions import Unpack, override

from ffcompletion.consumers import checkpointing, waiting
from ffcompletion.consumers.options import CheckpointedOptions, SubscribeOptions, WaitOptions
from ffcompletion.contract.checkpoint import CheckpointStore
from ffcompletion.contract.closing import Closing
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import Backend as AsyncBackend
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendStats
from ffcompletion.sync.checkpointed import Checkpointed
from ffcompletion.sync.loop import loop_thread
from ffcompletion.sync.stream import Pump, Stream, abort_dropped

__all__ = ["Backend"]

_Id = TypeVar("_Id", bound=str)


@final
class Backend(Closing):
    """A backend for code that blocks. Takes over the asynchronous one it is given, and closes it.

    Raises ``Unavailable`` for one that is no ``ffcompletion.Backend``.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        if not isinstance(backend, AsyncBackend):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise Unavailable("sync", f"{type(backend).__name__} is no ffcompletion.Backend")
        self._backend = backend
        self._loop = loop_thread()
        self._pumps: set[Pump] = set()
        self._open = True
        self._loop.enter(self)

    def subscribe(
        self,
        filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
        **options: Unpack[SubscribeOptions],
    ) -> Stream:
        """A live stream to iterate over; it is live when this returns. Arguments and errors of ``subscribe``."""
        self._check()
        abort_dropped(self._pumps)
        pump = Pump(self._loop, self._forget)
        # First, so that there is always something to be dropped.
        stream = Stream(pump)
        self._pumps.add(pump)
        pump.open(self._backend, filter, **options)
        return stream

    def _forget(self, pump: Pump) -> None:
        self._pumps.discard(pump)

    def wait_for_completion(
        self,
        execution_id: str,
        **options: Unpack[WaitOptions],
    ) -> CompletionPayload:
        """Block until the execution has finished. Arguments and errors of ``ffcompletion.wait_for_completion``."""
        self._check()
        return self._loop.run(lambda: waiting.wait_for_completion(self._backend, execution_id, **options))

    def as_completed(
        self,
        execution_ids: Iterable[str],
        **options: Unpack[WaitOptions],
    ) -> Generator[CompletionPayload]:
        """Each execution's completion as it finishes. Arguments and errors of ``ffcompletion.as_completed``."""
        self._check()
        answers = waiting.as_completed(self._backend, execution_ids, **options)
        return self._iterate(answers)

    def _iterate(self, answers: AsyncGenerator[CompletionPayload]) -> Generator[CompletionPayload]:
        # An interrupt cancels the one, which may take its time; the other waits for that.
        turn = asyncio.Lock()
        try:
            while (completion := self._loop.run(lambda: _next(answers, turn))) is not None:
                yield completion
        finally:
            if self._open:
                self._loop.run(lambda: _close(answers, turn))

    def wait_for_all(
        self,
        execution_ids: Iterable[_Id],
        **options: Unpack[WaitOptions],
    ) -> dict[_Id, CompletionPayload]:
        """Block until all have finished. Arguments and errors of ``ffcompletion.wait_for_all``."""
        self._check()
        return self._loop.run(lambda: waiting.wait_for_all(self._backend, execution_ids, **options))

    def wait_for_flow(
        self,
        flow_id: str,
        **options: Unpack[WaitOptions],
    ) -> dict[ExecutionId, CompletionPayload]:
        """Block until every member has finished. Arguments and errors of ``ffcompletion.wait_for_flow``."""
        self._check()
        return self._loop.run(lambda: waiting.wait_for_flow(self._backend, flow_id, **options))

    def describe_execution(self, execution_id: str, *, result: bool = False) -> ExecutionSnapshot | None:
        """The stored state, or None if there is none. Errors of ``ExecutionReader``."""
        self._check()
        return self._loop.run(lambda: self._backend.describe_execution(execution_id, result=result))

    def describe_executions(
        self, execution_ids: Sequence[str], *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The same for many, in one exchange; one answer for each id, in order. Errors of ``ExecutionReader``."""
        self._check()
        return self._loop.run(lambda: self._backend.describe_executions(execution_ids, result=result))

    def flow_members(self, flow_id: str) -> Sequence[ExecutionId]:
        """The flow's members as stored now. Errors of ``FlowReader``."""
        self._check()
        return self._loop.run(lambda: self._backend.flow_members(flow_id))

    def checkpointed(
        self,
        store: CheckpointStore,
        name: str,
        filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
        **options: Unpack[CheckpointedOptions],
    ) -> Checkpointed:
        """Go on where the consumer called ``name`` stopped. Arguments and errors of ``ffcompletion.checkpointed``."""
        self._check()

        async def made() -> Checkpointed:
            inner = checkpointing.checkpointed(self._backend, store, name, filter, **options)
            return Checkpointed(self._loop, inner)

        return self._loop.run(made)

    def ping(self) -> float:
        """Ask the server for a sign of life; the seconds that took. Meaning and errors of the asynchronous ``ping``."""
        self._check()
        return self._loop.run(self._backend.ping)

    def stats(self) -> BackendStats:
        """Counters of this backend, now."""
        return self._backend.stats()

    @override
    def close(self) -> None:
        """End every stream and wait, release everything on the server, within about a second. Idempotent."""
        if not self._open:
            return
        self._open = False
        if os.getpid() != self._loop.pid:
            return
        try:
            for pump in tuple(self._pumps):
                pump.close()
            self._loop.run(self._backend.aclose)
        finally:
            self._loop.leave(self)

    def _check(self) -> None:
        if not self._open:
            raise Unavailable("sync", "the backend is closed")

    @override
    def __repr__(self) -> str:
        return f"<sync {self._backend!r}>"


async def _next(answers: AsyncGenerator[CompletionPayload], turn: asyncio.Lock) -> CompletionPayload | None:
    async with turn:
        return await anext(answers, None)


async def _close(answers: AsyncGenerator[CompletionPayload], turn: asyncio.Lock) -> None:
    async with turn:
        await answers.aclose()
