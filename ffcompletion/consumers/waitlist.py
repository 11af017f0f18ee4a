"""Who waits for which executions, and what is still to be asked: decisions only, no I/O and no clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import final

import msgspec

from ffcompletion.contract.errors import NotFound
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.snapshot import ExecutionSnapshot

__all__ = ["Wait", "Waitlist", "completion_of"]


@final
class Wait:
    """One waiter, for one execution or many. Each is answered once."""

    __slots__ = ("answers", "changed", "failed", "interval_s", "missing_fails", "pending", "result", "timeout_s")

    def __init__(
        self,
        ids: Iterable[ExecutionId],
        *,
        result: bool = False,
        missing_fails: bool = True,
        interval_s: float = 1.0,
        timeout_s: float | None = None,
    ) -> None:
        self.pending: dict[ExecutionId, None] = dict.fromkeys(ids)
        """Not answered yet, in the order they were asked for."""
        self.answers: deque[CompletionPayload] = deque()
        """Answered, and not fetched by the waiter yet."""
        self.changed: asyncio.Event = asyncio.Event()
        """Set when there is an answer or a failure; the waiter clears it."""
        self.result: bool = result
        self.missing_fails: bool = missing_fails
        self.interval_s: float = interval_s
        self.timeout_s: float | None = timeout_s
        self.failed: BaseException | None = None
        """What ended it without an answer for all."""

    def fail(self, error: BaseException) -> None:
        """The wait is over; the first failure counts."""
        self.failed = self.failed or error
        self.changed.set()


@final
class _Unread:
    """What each wait wants to be read. They take turns: whoever waits for very many holds up nobody who waits for one."""

    def __init__(self) -> None:
        self._by_wait: dict[Wait, dict[ExecutionId, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_wait)

    def add(self, wait: Wait, ids: Iterable[ExecutionId]) -> None:
        """Behind what this one wants already, which keeps its place."""
        wanted = dict.fromkeys(ids)
        if wanted:
            self._by_wait.setdefault(wait, {}).update(wanted)

    def discard(self, wait: Wait, id_: ExecutionId) -> None:
        """It wants that no more."""
        wanted = self._by_wait.get(wait)
        if wanted is not None:
            wanted.pop(id_, None)
            if not wanted:
                del self._by_wait[wait]

    def take(self, most: int, waits: Mapping[ExecutionId, Iterable[Wait]]) -> list[ExecutionId]:
        """At most so many, for all who wait for them."""
        taken: list[ExecutionId] = []
        while self._by_wait and len(taken) < most:
            left = most - len(taken)
            share = max(1, left // len(self._by_wait))
            for wait in tuple(islice(self._by_wait, left)):
                for id_ in tuple(islice(self._by_wait.get(wait, ()), share)):
                    taken.append(id_)
                    for other in waits[id_]:
                        self.discard(other, id_)
                # To the end of the line.
                wanted = self._by_wait.pop(wait, None)
                if wanted is not None:
                    self._by_wait[wait] = wanted
        return taken


@final
class Waitlist:
    """All waits on one backend. An execution that several wait for is asked for once."""

    def __init__(self) -> None:
        self._waits: dict[Wait, None] = {}
        self._by_id: dict[ExecutionId, dict[Wait, None]] = {}
        self._unread = _Unread()
        # Finished, and waited for with a result that is still to be read.
        self._received: dict[ExecutionId, CompletionPayload] = {}
        self._unread_results = _Unread()
        self.failed: BaseException | None = None
        """What ended all of them, if something did."""

    def add(self, wait: Wait) -> None:
        """From now on its executions are waited for, and their state wants to be read once."""
        self._waits[wait] = None
        self.extend(wait, wait.pending)

    def extend(self, wait: Wait, ids: Iterable[ExecutionId]) -> None:
        """More executions for a wait."""
        ids = tuple(ids)
        for id_ in ids:
            wait.pending[id_] = None
            self._by_id.setdefault(id_, {})[wait] = None
        self._unread.add(wait, ids)
        if self.failed is not None:
            wait.fail(self.failed)

    def remove(self, wait: Wait) -> None:
        """Nobody waits there any more. Idempotent."""
        self._waits.pop(wait, None)
        for id_ in tuple(wait.pending):
            self._settled(wait, id_)

    def raise_failure(self, wait: Wait | None = None) -> None:
        """Raise what ended this wait, or all of them, if something has."""
        failed = self.failed if wait is None else wait.failed
        if failed is not None:
            # One failure may end a thousand waits, and each raises it: without the frames of those before.
            raise failed.with_traceback(None)

    def announced(self, completion: CompletionPayload) -> bool:
        """An announcement; whether somebody now wants its result read."""
        id_ = completion.execution_id
        wanted = False
        for wait in tuple(self._by_id.get(id_, ())):
            if wait.result and completion.payload_bytes is None:
                self._has_finished(wait, id_, completion)
                wanted = True
            else:
                self._answer(wait, id_, completion)
        return wanted

    def read(
        self, ids: Sequence[ExecutionId], found: Sequence[ExecutionSnapshot | None], *, results: bool = False
    ) -> None:
        """What the server has stored about these, in order. ``results``: with their results, if they have finished."""
        for id_, snapshot in zip(ids, found, strict=True):
            received = self._received.pop(id_, None)
            for wait in tuple(self._by_id.get(id_, ())):
                if snapshot is None and received is not None:
                    # It has finished, and its record is gone already, or was never whole: there is no result.
                    self._answer(wait, id_, received)
                elif snapshot is None:
                    if wait.missing_fails:
                        wait.fail(NotFound(f"execution {id_}"))
                elif snapshot.is_terminal and wait.result and not results:
                    self._has_finished(wait, id_, completion_of(snapshot))
                elif snapshot.is_terminal:
                    self._answer(wait, id_, completion_of(snapshot))

    def _has_finished(self, wait: Wait, id_: ExecutionId, completion: CompletionPayload) -> None:
        self._received[id_] = completion
        self._unread_results.add(wait, (id_,))

    def fail(self, error: BaseException) -> None:
        """Every wait is over, and those to come."""
        self.failed = error
        for wait in self._waits:
            wait.fail(error)

    def take_unread(self, most: int) -> list[ExecutionId]:
        """Executions whose state wants to be read now, at most so many."""
        return self._unread.take(most, self._by_id)

    def take_unread_results(self, most: int) -> list[ExecutionId]:
        """Executions that have finished, and whose results want to be read now, at most so many."""
        return self._unread_results.take(most, self._by_id)

    @property
    def has_unread_results(self) -> bool:
        """Whether there are any."""
        return bool(self._unread_results)

    def intervals(self) -> set[float]:
        """The poll intervals in use, in seconds."""
        return {wait.interval_s for wait in self._waits if wait.pending}

    def unread_again(self, interval_s: float) -> None:
        """One tick of a poll interval: everything that is waited for at that interval wants to be read."""
        for wait in self._waits:
            if wait.interval_s == interval_s:
                self._unread.add(wait, wait.pending)

    def _answer(self, wait: Wait, id_: ExecutionId, completion: CompletionPayload) -> None:
        self._settled(wait, id_)
        if not wait.result and completion.payload_bytes is not None:
            completion = msgspec.structs.replace(completion, payload_bytes=None)
        wait.answers.append(completion)
        wait.changed.set()

    def _settled(self, wait: Wait, id_: ExecutionId) -> None:
        wait.pending.pop(id_, None)
        self._unread.discard(wait, id_)
        self._unread_results.discard(wait, id_)
        waits = self._by_id.get(id_)
        if waits is not None:
            waits.pop(wait, None)
            if not waits:
                del self._by_id[id_]
                self._received.pop(id_, None)


def completion_of(snapshot: ExecutionSnapshot) -> CompletionPayload:
    """A stored terminal state as the completion that it stands for."""
    return CompletionPayload(
        snapshot.execution_id,
        snapshot.terminal_outcome or "",
        snapshot.result,
        snapshot.completed_at_ms,
        snapshot.flow_id,
    )
