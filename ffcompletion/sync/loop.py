"""The background thread with the event loop that everything in this package runs on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar, final

from ffcompletion.contract.errors import Unavailable
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger

__all__ = ["LoopThread", "loop_thread"]

_T = TypeVar("_T")

# Closing is bounded by the backends; this is for one that breaks its word.
_CLOSE_S: Final = 10.0
_log: Final = logger("ffcompletion.sync")


@final
class LoopThread:
    """The background thread and its event loop, counted by those who use it."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._users = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """One more user; the first one starts the thread."""
        with self._lock:
            self._users += 1
            if self._thread is not None:
                return
            started, self._ending = threading.Event(), threading.Event()
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run, args=(loop, started, self._ending), name="ffcompletion-sync", daemon=True
            )
            self._thread.start()
            started.wait()

    def leave(self) -> None:
        """One user fewer; the last one ends the thread."""
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None or self._loop is None:
                return
            self._ending.set()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
            self._thread = self._loop = None

    def run(self, work: Callable[[], Coroutine[object, object, _T]]) -> _T:
        """Do it on the loop and wait for it. Ctrl-C here cancels it there."""
        if os.getpid() != self.pid:
            raise Unavailable("sync", "it was opened before fork(); connect again in the child process")
        if threading.current_thread() is self._thread or _in_a_coroutine():
            raise Unavailable("sync", "it would block a running event loop; use the asynchronous calls there")
        with self._lock:
            loop = self._loop
            if loop is None:
                raise Unavailable("sync", "the backend is closed")
            # The loop must not end under a call that is under way.
            self._users += 1
        try:
            future = asyncio.run_coroutine_threadsafe(work(), loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise
        finally:
            self.leave()

    def call(self, function: Callable[[], object]) -> None:
        """Have it called on the loop's thread, without waiting; nothing if the loop has ended."""
        loop = self._loop
        if loop is not None and os.getpid() == self.pid and not loop.is_closed():
            loop.call_soon_threadsafe(function)


def _run(loop: asyncio.AbstractEventLoop, started: threading.Event, ending: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.set)
    try:
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:
                # Out of code that one caller brought; its own thread is told, and all the others go on.
                _log.error("%s was raised on the loop's thread, which goes on", name_of(exc))
            if ending.is_set():
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
