"""One stream and one state reader per backend, shared by all who wait on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from functools import partial
from typing import Final, final

from ffcompletion.consumers.waitlist import Wait, Waitlist
from ffcompletion.contract.errors import EngineError, StateUnknown, Unavailable
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.loops import shared_task
from ffcompletion.contract.protocols import Backend, CompletionBackend, CompletionStream, ExecutionReader
from ffcompletion.contract.stats import BackendState, BackendStats
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import Culprit, contained
from ffcompletion.foreign.logs import logger

__all__ = ["Watch", "watching"]

_log: Final = logger("ffcompletion.waiting")

# Executions per state read: a pipeline or query of some milliseconds.
_AT_ONCE: Final = 1000
# Results in one question: one of unknown size alone, more while they are small, so that a few large ones fill no memory.
_MOST_RESULTS: Final = 16
_SMALL: Final = 256 << 10
_LARGE: Final = 4 << 20
# A tick is early or late by up to this part of its interval, so that many processes do not ask in step.
_JITTER: Final = 0.2
# A question that is under way for less than this is no sign of trouble.
_ANSWER_S: Final = 0.5


@final
class Watch:
    """Listens to one backend and reads state behind it, for as long as somebody waits. Owns one task.

    It lingers for a moment after the last one, so that the next finds the stream open; closing the backend ends it.
    """

    def __init__(self, backend: CompletionBackend, spread: Callable[[], float] = random.random) -> None:
        self._backend = backend
        self.loop: Final = asyncio.get_running_loop()
        linger: object = getattr(backend, "linger", 0.0)
        self._linger_s = linger if isinstance(linger, int | float) else 0.0
        self._lapse: asyncio.TimerHandle | None = None
        # When the question was put that nothing has answered yet, and what went wrong with it last.
        self._unanswered_since: float | None = None
        self._fault: EngineError | None = None
        # When the last question was put that was answered.
        self._answered_at = 0.0
        self._reader = backend if isinstance(backend, ExecutionReader) else None
        self._spread = spread
        self._live = asyncio.Event()
        self._unread = asyncio.Event()
        self._unread_results = asyncio.Event()
        self._unreadable = False
        self._ticks: dict[float, float] = {}
        self.waitlist: Waitlist = Waitlist()
        self.users = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Return when the stream is live. Raises what subscribing raised, to everyone who waited for it."""
        if self._task is None:
            self._task = shared_task(self._run(), "ffcompletion-waiting")
        await self._live.wait()
        self.waitlist.raise_failure()

    async def close(self) -> None:
        """Close the stream and end the task. Whoever waits must be gone."""
        # From now on it is nobody's to join, however long the closing takes.
        _forget(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def leave(self) -> None:
        """The last one who waited has gone: linger for the next, or close."""
        if self._linger_s and self.waitlist.failed is None:
            self._lapse = self.loop.call_later(self._linger_s, self._lapsed, context=Context())
        else:
            await self.close()

    def stay(self) -> None:
        """Somebody waits again."""
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None
            if self._unanswered_since is not None:
                # While nobody waited nothing was asked.
                self._unanswered_since = self.loop.time()

    def _lapsed(self) -> None:
        self._lapse = None
        _forget(self)
        if self._task is not None:
            self._task.cancel()

    def timed_out(self, waited_for: str, seconds: float) -> TimeoutError:
        """What a wait that has taken so long raises: not finished as of now, or nothing is known about it."""
        since, now, fault = self._unanswered_since, self.loop.time(), self._fault
        fault = fault or self._interruption()
        if not self._live.is_set():
            since = now - seconds
        elif since is None and fault is not None:
            # Nobody need have asked since it went away: what was so before may not be so now.
            since = max(self._answered_at, now - seconds)
        if since is None or (fault is None and now - since < _ANSWER_S):
            return TimeoutError(f"{waited_for} within {seconds:g} s")
        error = StateUnknown(waited_for.partition(" ha")[0], now - since)
        error.__cause__ = fault
        return error

    def _interruption(self) -> EngineError | None:
        stats = contained(Culprit("stats()", _log), self._backend.stats) if isinstance(self._backend, Backend) else None
        if isinstance(stats, BackendStats) and stats.state in (BackendState.CONNECTING, BackendState.RECONNECTING):
            return Unavailable("the server", f"the backend is {stats.state}")
        return None

    @contextmanager
    def waiting(self, wait: Wait) -> Generator[None]:
        """The wait is on the list for as long as the block runs."""
        try:
            self.waitlist.add(wait)
            self._unread.set()
            yield
        finally:
            self.waitlist.remove(wait)

    def extend(self, wait: Wait, ids: Iterable[ExecutionId]) -> None:
        """More executions for a wait that is on the list."""
        self.waitlist.extend(wait, ids)
        self._unread.set()

    async def _run(self) -> None:
        asking = None
        if isinstance(self._backend, Backend):
            asking = asyncio.create_task(self._ask_why(self._backend), name="ffcompletion-waiting-why")
        try:
            stream = await called("subscribe", self._backend.subscribe_completions)
            try:
                # Nothing is awaited for it here: whoever is cancelled then has a stream to close.
                if asking is not None:
                    asking.cancel()
                self._fault = None
                self._live.set()
                async with asyncio.TaskGroup() as group:
                    reader = self._reader
                    works = () if reader is None else (self._read(reader), self._read_results(reader))
                    reading = [group.create_task(work) for work in works]
                    await called("the stream", partial(self._listen, stream))
                    for task in reading:
                        task.cancel()
            finally:
                await stream.aclose()
            self.waitlist.fail(Unavailable("waiting", "the backend was closed, or ended its stream"))
        except asyncio.CancelledError:
            self.waitlist.fail(Unavailable("waiting", "the wait was ended"))
            raise
        except BaseExceptionGroup as group_exc:
            self.waitlist.fail(group_exc.exceptions[0])
        except Exception as exc:  # noqa: BLE001  # raised by every wait
            self.waitlist.fail(exc)
        finally:
            self._live.set()
            self.stay()
            _forget(self)
            if asking is not None:
                asking.cancel()
                await asyncio.wait([asking])

    async def _ask_why(self, backend: Backend) -> None:
        """A stream that is being mended is waited for, longer than some wait: until then, what keeps it from being live."""
        while True:
            await asyncio.sleep(_ANSWER_S)
            try:
                await backend.ping()
            except EngineError as exc:
                self._fault = exc
            else:
                self._fault = None

    async def _listen(self, stream: CompletionStream) -> None:
        announced = self.waitlist.announced
        async for completion in stream:
            if announced(completion):
                self._unread_results.set()

    async def _read(self, reader: ExecutionReader) -> None:
        waitlist = self.waitlist
        while True:
            # Also where there is always something to read: whoever waits for less has his ticks.
            self._tick()
            ids = waitlist.take_unread(_AT_ONCE)
            if not ids:
                await self._until_unread()
                continue
            asked_at = self.loop.time()
            if self._unanswered_since is None:
                self._unanswered_since = asked_at
            try:
                # Whatever would end this task in silence is an error of theirs: the waits would never be answered.
                found = await called(
                    "reading stored state",
                    partial(reader.describe_executions, ids),
                )
            except Unavailable:
                raise
            except EngineError as exc:
                # Announcements are still heard, and the next tick asks again.
                self._now_readable(exc)
                await self._until_unread()
                continue
            self._now_readable(None)
            self._answered_at = asked_at
            waitlist.read(ids, found)
            if waitlist.has_unread_results:
                self._unread_results.set()

    async def _read_results(self, reader: ExecutionReader) -> None:
        """In a place of their own: who asks for none does not wait for those of others, however large they are."""
        waitlist, most = self.waitlist, 1
        while True:
            await self._unread_results.wait()
            self._unread_results.clear()
            while ids := waitlist.take_unread_results(most):
                try:
                    found = await called("reading results", partial(reader.describe_executions, ids, result=True))
                except Unavailable:
                    raise
                except EngineError as exc:
                    self._fault, most = exc, 1
                    break  # each is asked for again once its state has been, at the next tick
                size = sum(len(one.result or b"") for one in found if one is not None)
                most = 1 if size > _LARGE else min(2 * most, _MOST_RESULTS) if size < _SMALL else most
                waitlist.read(ids, found, results=True)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        intervals = self.waitlist.intervals()
        self._ticks = {interval: due for interval, due in self._ticks.items() if interval in intervals}
        for interval in intervals:
            due = self._ticks.get(interval)
            if due is not None and due <= now:
                self.waitlist.unread_again(interval)
            if due is None or due <= now:
                self._ticks[interval] = now + interval * (1 + _JITTER * (2 * self._spread() - 1))

    async def _until_unread(self) -> None:
        due = min(self._ticks.values(), default=None)
        try:
            async with asyncio.timeout_at(due):
                await self._unread.wait()
        except TimeoutError:
            return
        self._unread.clear()
        # Whoever else begins to wait in this turn of the loop is asked for in the same exchange.
        await asyncio.sleep(0)

    def _now_readable(self, exc: EngineError | None) -> None:
        self._fault = exc
        if exc is None:
            self._unanswered_since = None
        if (exc is not None) == self._unreadable:
            return
        self._unreadable = exc is not None
        if exc is not None:
            _log.warning("state cannot be read (%s); listening goes on, and it is asked again at every tick", exc)
        else:
            _log.info("state can be read again")


_watches: dict[tuple[int, int], Watch] = {}


@asynccontextmanager
async def watching(backend: CompletionBackend) -> AsyncGenerator[Watch]:
    """The backend's one watch, which ``open`` makes live. The first who waits makes it, the last one lets go of it."""
    # The watch holds the backend while it is in the table, so its id cannot be another's.
    key = (id(backend), id(asyncio.get_running_loop()))
    watch = _watches.get(key)
    if watch is None or watch.waitlist.failed is not None:
        watch = _watches[key] = Watch(backend)
    watch.users += 1
    watch.stay()
    try:
        yield watch
    finally:
        watch.users -= 1
        if not watch.users:
            await watch.leave()


def _forget(watch: Watch) -> None:
    for key in [key for key, known in _watches.items() if known is watch]:
        del _watches[key]
