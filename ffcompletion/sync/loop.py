"""The background thread with the event loop that everything in this package runs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Final, Generic, TypeVar, final

from ffcompletion.contract.errors import Unavailable
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger

__all__ = ["LoopThread", "held", "loop_thread"]

_T = TypeVar("_T")

# Closing is bounded by the backends; this is for one that breaks its word.
_CLOSE_S: Final = 10.0
_log: Final = logger("ffcompletion.sync")


@final
class LoopThread:
    """The background thread and its event loop, which run while somebody uses them.

    An interrupt may come between any two steps of the main thread. So users are known by what they are, not counted: one
    that is gone without a word is one no longer. And the loop's thread waits for no lock that a caller may hold: an
    interrupt in ``threading.Condition`` leaves it held, and ``Event``, and futures, have one.
    """

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._users: dict[int, weakref.ref[object]] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = _Ending()
        self._thread: threading.Thread | None = None

    @property
    def users(self) -> int:
        """How many there are."""
        self._users = {key: user for key, user in self._users.items() if user() is not None}
        return len(self._users)

    def enter(self, user: object) -> None:
        """One more user; the first one starts the thread."""
        with self._lock:
            self._users[id(user)] = weakref.ref(user)
            if self._thread is not None:
                return
            started, ending, loop = held(), _Ending(), asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(loop, started, ending), name="ffcompletion-sync", daemon=True)
            try:
                self._loop, self._ending, self._thread = loop, ending, thread
                thread.start()
                started.acquire()
            except BaseException:
                # It may not have begun, or not be known to have.
                self._end()
                raise

    def leave(self, user: object) -> None:
        """It is one no longer; the last one ends the thread. Idempotent."""
        with self._lock:
            self._users.pop(id(user), None)
            if not self.users:
                self._end()

    def _end(self) -> None:
        thread, loop, ending = self._thread, self._loop, self._ending
        if thread is None or loop is None:
            return
        try:
            # From now on whoever comes begins another, also if this is interrupted.
            self._thread = self._loop = None
            _told_to_end(loop, ending)
        except BaseException:
            _told_to_end(loop, ending)
            raise
        # One that was interrupted as it began may never have.
        with contextlib.suppress(RuntimeError):
            thread.join(_CLOSE_S)

    def run(self, work: Callable[[], Coroutine[object, object, _T]]) -> _T:
        """Do it on the loop and wait for it. Ctrl-C here cancels it there."""
        if os.getpid() != self.pid:
            raise Unavailable("sync", "it was opened before fork(); connect again in the child process")
        if threading.current_thread() is self._thread or _in_a_coroutine():
            raise Unavailable("sync", "it would block a running event loop; use the asynchronous calls there")
        # The loop must not end under a call that is under way.
        call = _Call(work)
        try:
            with self._lock:
                loop = self._loop
                if loop is None:
                    raise Unavailable("sync", "the backend is closed")
                self._users[id(call)] = weakref.ref(call)
            try:
                loop.call_soon_threadsafe(call.begin)
                return call.answer()
            except BaseException:
                call.give_up(loop)
                raise
        finally:
            self.leave(call)

    def call(self, function: Callable[[], object]) -> None:
        """Have it called on the loop's thread, without waiting; nothing if the loop has ended."""
        loop = self._loop
        if loop is not None and os.getpid() == self.pid and not loop.is_closed():
            loop.call_soon_threadsafe(function)


@final
class _Ending:
    """Whether a loop has been told to end."""

    told = False


@final
class _Call(Generic[_T]):
    """One that is under way: begun and ended by the loop's thread, waited for by another."""

    def __init__(self, work: Callable[[], Coroutine[object, object, _T]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._answers: list[_T] = []
        self._error: BaseException | None = None
        self._ended = held()

    def begin(self) -> None:
        """On the loop's thread, in the context of whoever called."""
        if not self._given_up:
            self._task = asyncio.get_running_loop().create_task(self._do())

    async def _do(self) -> None:
        try:
            self._answers.append(await self._work())
        except asyncio.CancelledError:
            self._error = CancelledError()
            raise
        except BaseException as exc:  # noqa: BLE001  # the caller raises it
            self._error = exc
        finally:
            self._ended.release()

    def answer(self) -> _T:
        """Wait for it. Raises what it raised."""
        self._ended.acquire()
        if self._error is not None:
            try:
                raise self._error
            finally:
                # It holds this frame.
                self._error = None
        return self._answers[0]

    def give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel it, also where it has not begun."""
        self._given_up = True
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def held() -> threading.Lock:
    """To be acquired once it has been released, which may be by another thread."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def _told_to_end(loop: asyncio.AbstractEventLoop, ending: _Ending) -> None:
    ending.told = True
    # It may have done so.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop, started: threading.Lock, ending: _Ending) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.release)
    try:
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:
                # Out of code that one caller brought; its own thread is told, and all the others go on.
                _log.error("%s was raised on the loop's thread, which goes on", name_of(exc))
            if ending.told:
                break
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _in_a_coroutine() -> bool:
    # A notebook has a running loop in its main thread, and blocking calls in its cells are what people want there.
    try:
        return asyncio.current_task() is not None and not _in_a_notebook()
    except RuntimeError:
        return False


def _in_a_notebook() -> bool:
    import sys  # noqa: PLC0415  # only in the rare case

    return "ipykernel" in sys.modules


_shared = LoopThread()
_shared_lock = threading.Lock()


def loop_thread() -> LoopThread:
    """The one of this process."""
    global _shared
    with _shared_lock:
        if _shared.pid != os.getpid():
            # A child of fork() has the parent's objects and none of its threads.
            _shared = LoopThread()
        return _shared
