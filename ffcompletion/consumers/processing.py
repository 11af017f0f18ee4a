"""What ``checkpointed`` returns: the loop, the run, and the position that is stored behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Final, Self, final

from ffcompletion.consumers.handling import ended_saver, handled, set_within
from ffcompletion.consumers.histories import check_owner, owner_of
from ffcompletion.consumers.inhand import InHand, Work
from ffcompletion.consumers.progress import Processed, Progress
from ffcompletion.consumers.selection import check_selection, former_selection_text, selection_text, stored_checkpoint
from ffcompletion.consumers.shards import position_of
from ffcompletion.consumers.subscribing import check_cursor, check_partitions, open_stream
from ffcompletion.contract.checkpoint import Checkpoint, CheckpointStore, Lease, LeasingStore
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import (
    Backend,
    CompletionFilter,
    CompletionStream,
    ResumableCompletionBackend,
    Subscription,
)
from ffcompletion.contract.stats import Lag
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger

__all__ = ["Checkpointed"]

_log: Final = logger("ffcompletion.checkpoints")

# Where a filter admits little, the position moves without anything being processed; it is looked at this often.
_IDLE_S: Final = 5.0


@final
class Checkpointed:
    """What ``checkpointed`` returns; use it in ``async with``, with one loop or one ``run`` inside.

    Raises ``Validation`` for options that cannot be.
    """

    def __init__(
        self,
        backend: ResumableCompletionBackend | Backend,
        store: CheckpointStore,
        name: str,
        wanted: CompletionFilter | None,
        *,
        start: StreamCursor | None = None,
        partitions: Collection[int] | None = None,
        results: bool = False,
        save_interval: float = 0.1,
        selection: str | None = None,
        lease: Lease = "none",
    ) -> None:
        """The options of ``CheckpointedOptions``; the defaults are here."""
        if lease not in ("none", "raise", "wait"):
            raise Validation("lease", f"{lease!r} is none of none, raise, wait")
        save_interval = check_seconds("save_interval", save_interval)
        self._backend = backend
        self._store = store
        self._name = check_text("checkpoint", "the name", name)
        self._filter = wanted
        if partitions is not None:
            check_partitions(partitions)
        self._selection = selection_text(wanted, partitions, selection)
        self._former = former_selection_text(wanted, partitions, selection)
        self._lease = lease
        check_cursor(start)
        self._start = start or StreamCursor.empty()
        self._partitions = partitions
        self._results = results
        self._interval_s = save_interval
        self._progress = Progress()
        self._hand = InHand()
        self._saved: StreamCursor | None = None
        self._stream: CompletionStream | None = None
        self._saver: asyncio.Task[None] | None = None
        self._dirty = asyncio.Event()
        self._leaving = asyncio.Event()
        self._saving = asyncio.Lock()
        self._failed: BaseException | None = None
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        running_loop("checkpointed")
        if self._stream is not None:
            raise Unavailable("checkpointed", "its `async with` block has begun before; each needs one of its own")
        leasing = self._leasing()
        if leasing is not None:
            await called("lease a checkpoint", lambda: leasing.acquire(self._name, wait=self._lease == "wait"))
        try:
            return await self._begin()
        except BaseException:
            await self._give_back()
            raise

    def _leasing(self) -> LeasingStore | None:
        if self._lease == "none":
            return None
        if isinstance(self._store, LeasingStore):
            return self._store
        raise Unavailable("lease", f"{name_of(self._store)} cannot keep a name for one consumer")

    async def _give_back(self) -> None:
        leasing = self._leasing()
        if leasing is not None:
            await called("give back a lease", lambda: leasing.release(self._name))

    async def _begin(self) -> Self:
        stored = stored_checkpoint(await called("load a checkpoint", lambda: self._store.load(self._name)))
        if stored is not None:
            await check_owner(self._backend, self._name, stored)
            check_selection(self._name, stored, self._selection, self._former)
            self._saved = stored.cursor
        cursor = self._start if stored is None else stored.cursor
        self._stream = await open_stream(
            self._backend, self._filter, cursor=cursor, partitions=self._partitions, results=self._results
        )
        try:
            # Also before anything is processed: a restart must not begin at a later "now".
            await self._save()
        except BaseException:
            await self._stream.aclose()
            raise
        self._saver = asyncio.create_task(self._save_on(), name="ffcompletion-checkpoints")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._dirty.set()
        try:
            if self._saver is not None:
                await ended_saver(self._saver)
            if error is None:
                self._raise_failure()
        finally:
            try:
                if self._stream is not None:
                    await self._stream.aclose()
                if self._closing is not None:
                    await asyncio.wait([self._closing])
            finally:
                await self._give_back()

    def __aiter__(self) -> Self:
        """Begin a loop. What an earlier one had in hand when it was left is not processed, and comes again first."""
        self._hand.put_back()
        return self

    async def __anext__(self) -> CompletionPayload:
        """The next completion; the one before is processed then, so one task at a time may ask (else ``Unavailable``)."""
        if self._hand.done():
            self._dirty.set()
        return self._hand.take(await self._next())

    @property
    def lag(self) -> Lag:
        """How far this consumer is behind: what is handed out and not done, and what its stream has still to hand out.

        Raises ``Unavailable`` before its ``async with`` block has begun. A stream that does not count adds nothing.
        """
        stream = self._stream
        if stream is None:
            raise Unavailable("lag", "use it inside its `async with` block")
        return self._progress.lag(stream.stats().lag if isinstance(stream, Subscription) else Lag())

    async def commit(self) -> None:
        """Everything yielded so far is processed, the completion in hand too; returns when that is stored."""
        self._hand.commit()
        await self._save()

    def stop(self, *, drain: bool = True) -> None:
        """End the loop, or the ``run``, without closing the backend: nothing more is handed out.

        ``run`` then waits for what is in work, stores the position and returns; with ``drain=False`` it cancels what
        is in work instead, which comes again next time. May be called from any task, or by a signal's handler
        (``loop.add_signal_handler(SIGTERM, completions.stop)``), also before ``run`` has begun. Idempotent.
        """
        self._stopped = True
        if self._stream is not None and self._closing is None:
            # Wakes whoever waits for the next one; what the stream has not yielded comes again next time.
            self._closing = asyncio.create_task(self._stream.aclose(), name="ffcompletion-stop")
        if not drain:
            for task in self._working:
                task.cancel()

    async def run(
        self,
        handler: Callable[[CompletionPayload], Awaitable[object]],
        *,
        concurrency: int = 1,
        attempts: int = 1,
        failed: Callable[[CompletionPayload, Exception], Awaitable[object]] | None = None,
    ) -> Processed:
        """Call ``handler`` for each completion, up to ``concurrency`` at once, until ``stop()`` or the backend's end.

        The cursor follows the oldest that is not done. Completions of one execution (it was replayed) may be in work at
        once. Returns how far it came, when that is stored.

        A handler that raises is called again, up to ``attempts`` times in all, with growing pauses. What keeps failing
        goes to ``failed``, with the last error; once that has returned it counts as done. Without ``failed`` (and where
        that raises) the error cancels the others and is raised here: nothing is skipped. One whose task is cancelled, by
        itself too, has done nothing: its completion comes again next time.
        """
        self._hand.put_back()
        concurrency, attempts = check_count("concurrency", concurrency), check_count("attempts", attempts)
        slots = asyncio.Semaphore(concurrency)
        processed = given_up = 0

        async def work(completion: CompletionPayload, finish: Callable[[], None]) -> None:
            nonlocal processed, given_up
            well = await handled(handler, completion, attempts, failed)
            processed, given_up = processed + well, given_up + (not well)
            finish()
            self._dirty.set()

        def ended(task: asyncio.Task[None]) -> None:
            # Not by the work itself, which never begins where it is cancelled before its first step.
            self._working.discard(task)
            slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await slots.acquire()
                    try:
                        completion, finish = await self._next()
                    except StopAsyncIteration:
                        break
                    task = group.create_task(work(completion, finish), name="ffcompletion-work")
                    self._working.add(task)
                    task.add_done_callback(ended)
        except BaseExceptionGroup as group_exc:
            raise group_exc.exceptions[0] from group_exc.exceptions[0].__cause__
        await self._save()
        return Processed(processed=processed, failed=given_up, cursor=self._saved)

    async def _next(self) -> Work:
        self._raise_failure()
        if self._stream is None or self._leaving.is_set():
            raise Unavailable("checkpointed", "use it inside its `async with` block")
        if self._stopped:
            raise StopAsyncIteration
        if (again := self._hand.again()) is not None:
            return again
        try:
            completion = await self._stream.__anext__()
        except StopAsyncIteration:
            self._raise_failure()
            raise
        if completion.cursor is None:
            raise Unavailable("checkpointed", "the stream's completions carry no cursor")
        finish = self._progress.begin(completion.cursor, completion.produced_at_ms)
        if self._stopped:
            # Stopped as it came: it is not done, and comes again next time.
            raise StopAsyncIteration
        return completion, finish

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed.with_traceback(None)

    def _position(self) -> StreamCursor | None:
        # With nothing in work, what the filter did not admit need not be read again either.
        if self._stream is None or self._progress.busy:
            return self._progress.cursor
        return position_of(self._stream) or self._progress.cursor

    async def _save(self) -> None:
        # In turns, so that an earlier position never lands on a later one.
        async with self._saving:
            cursor = self._position()
            if cursor is None or cursor == self._saved:
                return
            position = Checkpoint(cursor=cursor, backend=owner_of(self._backend, cursor), selection=self._selection)
            await called("save a checkpoint", lambda: self._store.save(self._name, position))
            self._saved = cursor

    async def _save_on(self) -> None:
        try:
            while True:
                last = self._leaving.is_set()
                await self._save()
                if last:
                    return
                await set_within(self._leaving, self._interval_s)
                await set_within(self._dirty, _IDLE_S)
                self._dirty.clear()
        except asyncio.CancelledError:
            if not self._leaving.is_set():
                # Nobody of ours did that: the store cancelled the task that called it.
                await self._not_stored(Unavailable("save a checkpoint", "the task that does it was cancelled"))
            raise
        except Exception as exc:  # noqa: BLE001  # the consumer raises it
            await self._not_stored(exc)

    async def _not_stored(self, error: Exception) -> None:
        _log.warning("%s: the position cannot be stored (%s); the stream ends", self._name, name_of(error))
        self._failed = error
        if self._stream is not None:
            # Wakes whoever waits for the next completion.
            await self._stream.aclose()
