"""``checkpointed``: every completion processed at least once, over restarts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Final, Self, final

from ffcompletion.consumers.selection import selection_text
from ffcompletion.consumers.shards import position_of
from ffcompletion.consumers.subscribing import open_stream
from ffcompletion.contract.checkpoint import Checkpoint, CheckpointStore
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionBackend, CompletionFilter, CompletionStream
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger

__all__ = ["Checkpointed", "Progress", "checkpointed"]

_log: Final = logger("ffcompletion.checkpoints")

# Where a filter admits little, the position moves without anything being processed; it is looked at this often.
_IDLE_S: Final = 5.0
# A store that was cancelled in the middle of a save is given so long to notice.
_GIVE_UP_S: Final = 1.0


def checkpointed(
    backend: CompletionBackend,
    store: CheckpointStore,
    name: str,
    filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
    *,
    start: StreamCursor | None = None,
    partitions: Collection[int] | None = None,
    results: bool = False,
    save_interval: float = 0.1,
    selection: str | None = None,
) -> Checkpointed:
    """Go on where the consumer called ``name`` stopped, and remember how far it has come.

    ::

        async with checkpointed(backend, FileCheckpoints("promoter.cursor"), "promoter") as completions:
            async for completion in completions:
                await promote(completion)

    The cursor is stored behind the consumer, at most every ``save_interval`` seconds: only what the loop's body has
    ended for, and everything before it. So each completion is processed at least once, and the last few again after a
    crash. The one in hand when the loop is left, by ``break`` as by an error, counts as not processed, unless
    ``commit()`` was called. ``run`` processes several at once.

    - ``start``: where to begin if nothing is stored yet; None is from now, and stored at once.
    - ``filter``, ``partitions``, ``results``: as for ``subscribe``. A checkpoint that was stored for others, or for another kind of
      backend, is refused with ``Validation`` and left as it is.
    - ``selection``: what a filter of your own admits, in words that change when it does. Needed with any filter but
      ``ScannerFilter``, because two objects of one class may admit different things, and what the one did not admit
      would be passed over for the other.

    Entering raises ``Unavailable`` if the backend is not resumable, and what subscribing and ``store`` raise. What
    ``store.save`` raises later, the loop raises.
    """
    return Checkpointed(backend, store, name, filter, start, partitions, results, save_interval, selection)


@final
class Progress:
    """What has been handed out, and what of it is done: how far everything is."""

    def __init__(self) -> None:
        self._open: deque[tuple[StreamCursor, list[bool]]] = deque()
        self.cursor: StreamCursor | None = None
        """Everything handed out up to here is done; None while nothing is."""

    @property
    def busy(self) -> bool:
        """Whether anything handed out is not done."""
        return bool(self._open)

    def begin(self, cursor: StreamCursor) -> Callable[[], None]:
        """Something is handed out, after which the stream stands at ``cursor``. Call what is returned when done."""
        done = [False]
        self._open.append((cursor, done))

        def finish() -> None:
            done[0] = True
            while self._open and self._open[0][1][0]:
                self.cursor = self._open.popleft()[0]

        return finish


@final
class Checkpointed:
    """What ``checkpointed`` returns; use it in ``async with``, with one loop or one ``run`` inside."""

    def __init__(
        self,
        backend: CompletionBackend,
        store: CheckpointStore,
        name: str,
        wanted: CompletionFilter | None,
        start: StreamCursor | None,
        partitions: Collection[int] | None,
        results: bool,
        save_interval: float,
        selection: str | None,
    ) -> None:
        if not save_interval >= 0:
            raise Validation("save_interval", "must be at least 0 seconds")
        self._backend = backend
        self._store = store
        self._name = check_text("checkpoint", "the name", name)
        self._filter = wanted
        self._selection = selection_text(wanted, partitions, selection)
        self._start = start or StreamCursor.empty()
        self._partitions = partitions
        self._results = results
        self._interval_s = save_interval
        self._progress = Progress()
        self._finish: Callable[[], None] | None = None
        self._saved: StreamCursor | None = None
        self._stream: CompletionStream | None = None
        self._saver: asyncio.Task[None] | None = None
        self._dirty = asyncio.Event()
        self._leaving = asyncio.Event()
        self._saving = asyncio.Lock()
        self._failed: BaseException | None = None

    async def __aenter__(self) -> Self:
        stored = _checked(await called("load a checkpoint", lambda: self._store.load(self._name)))
        if stored is not None:
            self._check(stored)
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
                await _ended(self._saver)
            if error is None:
                self._raise_failure()
        finally:
            if self._stream is not None:
                await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletionPayload:
        self._done_in_hand()
        completion, self._finish = await self._next()
        return completion

    async def commit(self) -> None:
        """Everything yielded so far is processed, the completion in hand too; returns when that is stored."""
        self._done_in_hand()
        await self._save()

    async def run(self, handler: Callable[[CompletionPayload], Awaitable[object]], *, concurrency: int = 1) -> None:
        """Call ``handler`` for each completion, up to ``concurrency`` at once, until the backend is closed.

        The cursor follows the oldest that is not done. What a handler raises cancels the others and is raised here.
        Completions of one execution (it was replayed) may be in work at once.
        """
        if concurrency < 1:
            raise Validation("concurrency", "must be at least 1")
        slots = asyncio.Semaphore(concurrency)

        async def work(completion: CompletionPayload, finish: Callable[[], None]) -> None:
            try:
                await called("the handler", lambda: handler(completion))
                finish()
                self._dirty.set()
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await slots.acquire()
                    try:
                        completion, finish = await self._next()
                    except StopAsyncIteration:
                        return
                    group.create_task(work(completion, finish), name="ffcompletion-work")
        except BaseExceptionGroup as group_exc:
            raise group_exc.exceptions[0] from group_exc.exceptions[0].__cause__

    async def _next(self) -> tuple[CompletionPayload, Callable[[], None]]:
        self._raise_failure()
        if self._stream is None or self._leaving.is_set():
            raise Unavailable("checkpointed", "use it inside its `async with` block")
        try:
            completion = await self._stream.__anext__()
        except StopAsyncIteration:
            self._raise_failure()
            raise
        if completion.cursor is None:
            raise Unavailable("checkpointed", "the stream's completions carry no cursor")
        return completion, self._progress.begin(completion.cursor)

    def _done_in_hand(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()
            self._dirty.set()

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
            backend = type(self._backend).__name__
            position = Checkpoint(cursor=cursor, backend=backend, selection=self._selection)
            await called("save a checkpoint", lambda: self._store.save(self._name, position))
            self._saved = cursor

    async def _save_on(self) -> None:
        try:
            while True:
                last = self._leaving.is_set()
                await self._save()
                if last:
                    return
                await _set_within(self._leaving, self._interval_s)
                await _set_within(self._dirty, _IDLE_S)
                self._dirty.clear()
        except Exception as exc:  # noqa: BLE001  # the consumer raises it
            _log.warning("%s: the position cannot be stored (%s); the stream ends", self._name, type(exc).__name__)
            self._failed = exc
            if self._stream is not None:
                # Wakes whoever waits for the next completion.
                await self._stream.aclose()

    def _check(self, stored: Checkpoint) -> None:
        backend, selection = type(self._backend).__name__, self._selection
        if stored.backend != backend:
            raise Validation("checkpoint", f"{self._name!r} was stored for {stored.backend}, and this is {backend}")
        if stored.selection != selection:
            raise Validation(
                "checkpoint",
                f"{self._name!r} was stored for {stored.selection or 'everything'}, and this is for"
                f" {selection or 'everything'}; what that did not admit has been passed over",
            )


def _checked(stored: object) -> Checkpoint | None:
    if stored is not None and not isinstance(stored, Checkpoint):
        raise Validation("checkpoint", f"the store answered a {name_of(stored)}, which is no Checkpoint")
    return stored


async def _ended(saver: asyncio.Task[None]) -> None:
    """Wait for the last save. Cancelled, it is given up: no task stays behind."""
    try:
        await asyncio.wait([saver])
    finally:
        if not saver.done():
            saver.cancel()
            await asyncio.wait([saver], timeout=_GIVE_UP_S)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
