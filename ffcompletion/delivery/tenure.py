"""Who uses a backend now: one event loop, and everything that is held for it.

Whatever belongs to a loop lives here, and ends with it; nothing of one tenure reaches the next. All of it happens on
the tenure's own loop, except where it says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Final, Generic, Protocol, TypeVar, final

from ffcompletion.delivery.connection_state import ConnectionState

__all__ = ["Held", "Lease", "Leased", "Tenure"]

# What closing may take: the streams' reads together, then the rest.
_STREAMS_S: Final = 0.5
_CLOSE_S: Final = 1.0


class Held(Protocol):
    """Something held on a server, made whole by one async factory. Ended once, by one of these; never started again."""

    async def aclose(self) -> None:
        """Release everything in order, within about half a second whatever the server does. Raises nothing."""
        ...

    def abort(self) -> None:
        """Give everything up now, without a word to the server. Also where its loop is closed; idempotent."""
        ...


class Leased(Protocol):
    """One open stream, as its backend sees it."""

    def abort(self) -> None:
        """End the stream now; idempotent."""
        ...

    async def aclose(self) -> None:
        """End it, and wait for a bounded time until what it held is released."""
        ...


ExchangeT = TypeVar("ExchangeT", bound=Held)
RunT = TypeVar("RunT", bound=Held)


@final
class Lease:
    """One stream's hold on its tenure: while it lasts, nothing that the stream needs is released."""

    __slots__ = ("_end", "source")

    def __init__(self, end: Callable[[Lease], Awaitable[None]]) -> None:
        self._end = end
        self.source: Leased | None = None
        """The stream, once it is open."""

    async def aclose(self) -> None:
        """The stream needs nothing any more. Waits until the server knows, if it was the last. Idempotent."""
        await self._end(self)


@final
class Tenure(Generic[ExchangeT, RunT]):
    """One loop's use of a backend: its exchange (what questions are asked through), at most one run, its streams.

    The exchange is opened when first needed and serves the run too. It is released with the last stream, but lingers
    after a question: the next one finds it open.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: ConnectionState,
        open_exchange: Callable[[], Awaitable[ExchangeT]],
        open_run: Callable[[ExchangeT], Awaitable[RunT]],
        linger_s: float,
    ) -> None:
        self.loop: Final = loop
        self._connection = connection
        self._make_exchange = open_exchange
        self._make_run = open_run
        self._linger_s = linger_s
        self._exchange: ExchangeT | None = None
        self._run: RunT | None = None
        # A run starts and stops in turns, so that a stream closed while another opens stops nothing that it needs.
        self._turn = asyncio.Lock()
        self._exchange_turn = asyncio.Lock()
        self._limits: set[asyncio.Timeout] = set()
        self._releasing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        self.calls: int = 0
        """Calls under way. Changed only under the lock of the backend, so that other threads may look."""
        self.opening: int = 0
        """Those of them that open a stream."""
        self.leases: set[Lease] = set()
        """One for each open stream, and each that is being opened."""
        self.closing: bool = False
        """Whether its end has begun."""

    @property
    def busy(self) -> bool:
        """Whether its loop uses the backend. From any thread. A loop that was closed uses nothing."""
        return not self.loop.is_closed() and bool(self.calls or self.leases or self._run is not None)

    @property
    def run(self) -> RunT | None:
        """The run, if there is one."""
        return self._run

    # ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────

    def limit(self, limit: asyncio.Timeout) -> None:
        """A call is under way for so long; closing the backend ends it sooner."""
        self._limits.add(limit)

    def unlimit(self, limit: asyncio.Timeout) -> None:
        """It is over."""
        self._limits.discard(limit)

    async def open_exchange(self) -> ExchangeT:
        """The exchange, made if there is none."""
        async with self._exchange_turn:
            if self._exchange is None:
                self._exchange = await self._make_exchange()
            return self._exchange

    def asked(self) -> None:
        """A question was asked through the exchange: keep it for the next one."""
        self._asked_at = self.loop.time()

    async def open_run(self) -> RunT:
        """The run, started if there is none. Whoever calls this is counted in ``opening``, and it stays."""
        async with self._turn:
            if self._run is None:
                exchange = await self.open_exchange()
                self._connection.connecting()
                try:
                    self._run = await self._make_run(exchange)
                except BaseException:
                    self._connection.idle()
                    raise
            return self._run

    def lease(self) -> Lease:
        """For one more stream."""
        lease = Lease(self._end_lease)
        self.leases.add(lease)
        return lease

    async def _end_lease(self, lease: Lease) -> None:
        self.leases.discard(lease)
        if asyncio.get_running_loop() is self.loop:
            await self.release_if_unused()

    # ── releasing ────────────────────────────────────────────────────────────────────────────────────────────────

    async def release_if_unused(self) -> None:
        """If nobody needs the run or the exchange any more: release it, or see to it that it will be."""
        if self._unused_run or self._exchange_lapses_in is not None:
            self._release_soon()
        if self._releasing is not None and self._unused_run:
            await asyncio.shield(self._releasing)

    @property
    def _unused_run(self) -> bool:
        return self._run is not None and not self.leases and not self.opening

    @property
    def _exchange_lapses_in(self) -> float | None:
        """Seconds until the exchange is to be released; None while it is needed, or where there is none."""
        if self._exchange is None or self.calls or self.leases or self._run is not None:
            return None
        return 0.0 if self._asked_at is None else max(0.0, self._asked_at + self._linger_s - self.loop.time())

    def _release_soon(self) -> None:
        # In a task of its own: whoever closes the last stream may be cancelled, and half a release is none.
        # An eager one may be over before it is assigned, so it is asked whether it is.
        if (self._releasing is None or self._releasing.done()) and not self.closing:
            self._releasing = self.loop.create_task(self._release(), name="ffcompletion-release")

    async def _release(self) -> None:
        # Looked at anew after each wait: a call may have come in meanwhile, or have gone.
        while True:
            if self._unused_run:
                async with self._turn:
                    if self._unused_run:
                        await self._close_run()
                continue
            lapses_in = self._exchange_lapses_in
            if lapses_in != 0:
                break
            await self._close_exchange()
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = (
            None if lapses_in is None else self.loop.call_later(lapses_in, self._release_soon, context=Context())
        )

    async def _close_run(self) -> None:
        run = self._run
        if run is None:
            return
        try:
            await run.aclose()
        except BaseException:
            run.abort()
            raise
        finally:
            self._run = None
            self._connection.idle()

    async def _close_exchange(self) -> None:
        # Let go of first: a question that comes meanwhile makes another.
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        try:
            await exchange.aclose()
        except BaseException:
            exchange.abort()
            raise

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def aclose(self) -> None:
        """End calls and streams, release everything, within about a second. Idempotent; cancelling it stops nothing."""
        if self._ending is None:
            self.closing = True
            self._ending = self.loop.create_task(self._end(), name="ffcompletion-close")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        try:
            for limit in self._limits:
                # One that has expired already ends by itself.
                with contextlib.suppress(RuntimeError):
                    limit.reschedule(self.loop.time())
            sources = [lease.source for lease in self.leases if lease.source is not None]
            for source in sources:
                source.abort()
            if sources:
                await asyncio.wait([self.loop.create_task(source.aclose()) for source in sources], timeout=_STREAMS_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S), self._turn, self._exchange_turn:
                    await self._close_run()
                    await self._close_exchange()
        finally:
            self.abort()

    def abort(self) -> None:
        """Give everything up now. Only on its own loop, or where that one does not run (any more); idempotent."""
        self.closing = True
        run, self._run = self._run, None
        exchange, self._exchange = self._exchange, None
        lapse, self._lapse = self._lapse, None
        if lapse is not None and not self.loop.is_closed():
            lapse.cancel()
        for lease in self.leases:
            if lease.source is not None:
                lease.source.abort()
        self.leases.clear()
        if run is not None:
            run.abort()
            self._connection.idle()
        if exchange is not None:
            exchange.abort()

    def leave(self) -> None:
        """Another loop takes over, from its own thread. This one uses nothing any more, but may still hold something."""
        if self.loop.is_running():
            with contextlib.suppress(RuntimeError):  # it was closed this very moment
                self.loop.call_soon_threadsafe(self.abort)
                return
        self.abort()
