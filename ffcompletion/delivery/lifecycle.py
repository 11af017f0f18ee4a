"""What every networked backend does alike: start with the first stream, stop with the last, follow its user from loop to
loop, close in bounded time.

A backend itself keeps only what outlives all of that: options, counters, the position, and at most one tenure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Generic, TypeVar

from typing_extensions import override

from ffcompletion.contract.closing import AsyncClosing
from ffcompletion.contract.errors import Transport, Unavailable
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.tenure import ExchangeT, Lease, Leased, RunT, Tenure

__all__ = ["NetworkedBackend"]

SourceT = TypeVar("SourceT", bound=Leased)

# Closing on another thread's loop: its own bounds, and a little for that loop to get to it.
_CLOSE_ELSEWHERE_S: Final = 2.0


class NetworkedBackend(AsyncClosing, Generic[ExchangeT, RunT]):
    """Base of the networked backends; not part of the public contract.

    An adapter says how its exchange is opened (what questions are asked through: a command client, a pool) and how its
    run is (what streams live on, from the first to the last on one event loop), and opens streams with ``_open_stream``.
    Who starts, who stops and who is refused is decided here, under one lock, and looked at again after each wait.
    """

    def __init__(self, connection: ConnectionState, shown: str, setup_timeout_s: float, linger_s: float) -> None:
        """``shown``: where the server is, for messages, without a secret."""
        self._connection = connection
        self._shown = shown
        self._setup_timeout_s = setup_timeout_s
        self._linger_s = linger_s
        self._pid = os.getpid()
        # Held for a look and a change, never while anything waits: first calls may come from several threads at once.
        self._lock = threading.Lock()
        self._tenure: Tenure[ExchangeT, RunT] | None = None
        self._closed = False

    # ── for the adapter to say ───────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def _make_exchange(self) -> ExchangeT:
        """A new exchange, on the running loop. Whole, or an error and nothing is left behind."""

    @abstractmethod
    async def _make_run(self, exchange: ExchangeT) -> RunT:
        """A new run, live, on the running loop. Whole, or an error and nothing is left behind."""

    @abstractmethod
    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ExecutionSnapshot | None]:
        """The same for many, in one exchange with the server; one answer for each id, in order."""

    # ── for the adapter to use ───────────────────────────────────────────────────────────────────────────────────

    async def _open_stream(self, op: str, make: Callable[[RunT, Lease], Awaitable[SourceT]]) -> SourceT:
        """A stream's source, made by ``make`` on the run, which is started if there is none.

        The source ends its lease when it is closed. Raises ``Transport`` after the time limit, with the last fault as
        its cause, ``Unavailable`` where the backend is closed (meanwhile) or in use elsewhere, and what ``make`` raises.
        """
        async with self._call(op) as tenure:
            tenure.opening += 1
            try:
                run = await tenure.open_run()
                lease = tenure.lease()
                try:
                    source = await make(run, lease)
                except BaseException:
                    tenure.leases.discard(lease)
                    raise
                if tenure.closing:
                    # Closed while this was on its last step: nobody would ever close the stream.
                    source.abort()
                    tenure.leases.discard(lease)
                    raise Unavailable(op, "the backend is closed")
                lease.source = source
            finally:
                tenure.opening -= 1
        return source

    @asynccontextmanager
    async def _querying(self, op: str, *, lingers: bool = True) -> AsyncGenerator[ExchangeT]:
        """Around a question that needs no stream. Raises as ``_open_stream`` does.

        ``lingers``: what it opened stays for the next one; False for what belongs to a stream that is being opened.
        """
        async with self._call(op) as tenure:
            exchange = await tenure.open_exchange()
            try:
                yield exchange
            finally:
                if lingers:
                    tenure.asked()

    @property
    def _run(self) -> RunT | None:
        """The run now, if there is one."""
        tenure = self._tenure
        return None if tenure is None else tenure.run

    @property
    def _streams(self) -> int:
        """Open streams."""
        tenure = self._tenure
        return 0 if tenure is None else sum(lease.source is not None for lease in tuple(tenure.leases))

    # ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _call(self, op: str) -> AsyncGenerator[Tenure[ExchangeT, RunT]]:
        tenure = self._enter(op)
        limit = asyncio.timeout(self._setup_timeout_s)
        try:
            async with limit:
                tenure.limit(limit)
                try:
                    yield tenure
                finally:
                    tenure.unlimit(limit)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            if tenure.closing:
                raise Unavailable(op, "the backend is closed") from None
            fault = self._connection.fault
            if fault is None:
                raise Transport(self._shown, f"timed out: no answer within {self._setup_timeout_s:g} s") from exc
            raise Transport(self._shown, f"the connection is being mended: {fault}") from fault
        finally:
            with self._lock:
                tenure.calls -= 1
            if not tenure.closing:
                await tenure.release_if_unused()

    def _enter(self, op: str) -> Tenure[ExchangeT, RunT]:
        if os.getpid() != self._pid:
            raise Unavailable(op, "the backend was made before fork(); make a new one in the child process")
        loop = running_loop(op)
        with self._lock:
            if self._closed:
                raise Unavailable(op, "the backend is closed")
            tenure, former = self._tenure, None
            if tenure is None or tenure.loop is not loop:
                if tenure is not None and tenure.busy:
                    raise Unavailable(op, "the backend is in use on another event loop; make one for each loop")
                former = tenure
                tenure = self._tenure = Tenure(
                    loop, self._connection, self._make_exchange, self._make_run, self._linger_s
                )  # fmt: skip
            tenure.calls += 1
        if former is not None:
            former.leave()
        return tenure

    @property
    def linger(self) -> float:
        """For how many seconds what was opened for a wait or a question stays for the next. Closing waits for none."""
        return self._linger_s

    # ── questions and closing, the same for all ──────────────────────────────────────────────────────────────────

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ExecutionSnapshot | None:
        """The execution as stored now, or None if there is no record of it. ``result``: fetch it as well.

        Raises ``Validation`` for a malformed id, ``Transport`` or ``Unavailable`` if the server cannot be asked.
        """
        (found,) = await self.describe_executions([execution_id], result=result)
        return found

    @override
    async def aclose(self) -> None:
        """Close every stream and release everything on the server, within about a second. Idempotent.

        From any event loop, also another thread's: calls under way end with ``Unavailable``.
        """
        if os.getpid() != self._pid:
            return
        loop = running_loop("aclose")
        with self._lock:
            self._closed = True
            tenure = self._tenure
        if tenure is not None:
            if tenure.loop is loop:
                await tenure.aclose()
            elif tenure.loop.is_running():
                # A loop that is held up closes it when it gets to it.
                await _closed_elsewhere(tenure, loop)
            else:
                tenure.abort()
        self._connection.closed()


async def _closed_elsewhere(tenure: Tenure[ExchangeT, RunT], loop: asyncio.AbstractEventLoop) -> None:
    closed = asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # nobody waits for it any more
            loop.call_soon_threadsafe(closed.set)

    asyncio.run_coroutine_threadsafe(tenure.aclose(), tenure.loop).add_done_callback(tell)
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_ELSEWHERE_S):
            await closed.wait()
