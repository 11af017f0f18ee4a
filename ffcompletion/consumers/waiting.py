"""Waiting for particular executions: the announcement for speed, the stored state for certainty."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Final, TypeVar, final

from typing_extensions import Unpack

from ffcompletion.consumers.options import Missing, WaitOptions
from ffcompletion.consumers.waitlist import Wait, Waitlist
from ffcompletion.consumers.watch import Watch, watching
from ffcompletion.contract.errors import NotFound, ResourceExhausted, StateUnknown, Transport, Unavailable, Validation
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.numbers import check_seconds
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionBackend, ExecutionReader, FlowBackend

__all__ = ["as_completed", "wait_for_all", "wait_for_completion", "wait_for_flow"]

# A look without waiting is bounded all the same, and asks for so many at once.
_LOOK_S: Final = 2.0
_AT_ONCE: Final = 1_000
_WITH_RESULTS: Final = 16
_T = TypeVar("_T")
_Id = TypeVar("_Id", bound=str)


async def wait_for_completion(
    backend: CompletionBackend,
    execution_id: str,
    **options: Unpack[WaitOptions],
) -> CompletionPayload:
    """Wait until one execution has finished. One that has already finished is answered at once.

    Subscribes first, reads the stored state then, and waits for either to tell; every ``poll_interval`` seconds (1;
    give or take a fifth) the state is read again, for what is never announced. All waits on one backend share one stream
    and one state read per tick. The payload has no ``cursor`` where the state told first.

    - ``timeout``: seconds, set-up included; then ``TimeoutError``, or ``StateUnknown``, which is one too, where the
      state could not be asked for lack of an answering server. 0 asks once: what has finished is answered. None waits
      as long as it takes.
    - ``result``: ``payload_bytes`` is the stored result; outcome and result are of one read.
    - ``missing``: what an unknown id means. ``"error"`` raises ``NotFound``; ``"wait"`` waits until it exists.

    Raises ``Validation`` for a malformed id before anything is sent; ``Unavailable`` where the state may not be read
    and when the backend is closed meanwhile; whatever subscribing raises. Cancelling leaves nothing behind.

    A backend that is no ``ExecutionReader`` can only be listened to: then an execution that had finished before, or
    whose end is not announced, is waited for without end (or until ``timeout``), ``missing`` has no meaning, and
    ``result=True`` raises ``Unavailable``.
    """
    answers = as_completed(backend, [execution_id], **options)
    async with aclosing(answers):
        return await anext(answers)


def as_completed(
    backend: CompletionBackend,
    execution_ids: Iterable[str],
    **options: Unpack[WaitOptions],
) -> AsyncGenerator[CompletionPayload]:
    """Yield each execution's completion as it finishes, those that have finished already first.

    An id that is given twice is answered once. ``timeout`` covers the whole iteration; what had finished by then is
    yielded before ``TimeoutError`` is raised. Everything else is as for ``wait_for_completion``. A loop that is left
    early keeps its stream until the generator is closed: ``contextlib.aclosing`` does it at once.
    """
    ids = [ExecutionId(execution_id) for execution_id in _several(execution_ids)]
    return _as_completed(backend, _wait(backend, ids, **options))


async def wait_for_all(
    backend: CompletionBackend,
    execution_ids: Iterable[_Id],
    **options: Unpack[WaitOptions],
) -> dict[_Id, CompletionPayload]:
    """Wait until all of these have finished, whatever their outcome; by the ids given, in their order.

    Raises as ``wait_for_completion`` does; after ``timeout`` nothing is returned (``as_completed`` yields what there
    is).
    """
    ids = {given: ExecutionId(given) for given in _several(execution_ids)}
    answers = as_completed(backend, ids.values(), **options)
    async with aclosing(answers):
        found = {completion.execution_id: completion async for completion in answers}
    return {given: found[id_] for given, id_ in ids.items()}


async def wait_for_flow(
    backend: FlowBackend,
    flow_id: str,
    **options: Unpack[WaitOptions],
) -> dict[ExecutionId, CompletionPayload]:
    """Wait until every member of a flow has finished, those that join while others run included; by id.

    Done when one look at the flow shows no member that has not finished: one that was replayed meanwhile is waited
    for again. A backend that is no ``FlowBackend`` raises ``Unavailable``. A flow without
    members is unknown: ``NotFound``, or with ``missing="wait"`` it is waited for. Raises as ``wait_for_completion``.
    """
    flow = FlowId(flow_id)
    running_loop("waiting")
    if not isinstance(backend, FlowBackend):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise Unavailable("wait_for_flow", f"{type(backend).__name__} cannot tell who belongs to a flow")
    wait = _wait(backend, (), **options)
    if wait.timeout_s == 0:
        return await _flow_now(backend, flow, wait)
    # An unknown flow is looked for here; a member that is named and has no record is one that is yet to be made.
    unknown_fails, wait.missing_fails = wait.missing_fails, False
    deadline = _Deadline(wait.timeout_s)
    found: dict[ExecutionId, CompletionPayload] = {}
    async with watching(backend) as watch, deadline.of(watch, lambda: f"flow {flow} has not finished"):
        await watch.open()
        with watch.waiting(wait):
            while True:
                members = await _asked(backend.flow_members(flow))
                if members is not None and not members and unknown_fails:
                    raise NotFound(f"flow {flow}")
                watch.extend(wait, [id_ for id_ in members or () if id_ not in found and id_ not in wait.pending])
                if members and not wait.pending:
                    states = await _asked(backend.describe_executions(members))
                    again = [
                        state.execution_id for state in states or () if state is not None and not state.is_terminal
                    ]
                    if states is not None and not again:
                        return {id_: found[id_] for id_ in members}
                    watch.extend(wait, again)
                await _finished(watch, wait)
                while wait.answers:
                    completion = wait.answers.popleft()
                    found[completion.execution_id] = completion


@final
class _Deadline:
    """A time-out over several waits, in force only while one of them runs: not in the consumer's own code."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._at = None if timeout is None else asyncio.get_running_loop().time() + timeout

    @asynccontextmanager
    async def of(self, watch: Watch, what: Callable[[], str]) -> AsyncGenerator[None]:
        """Around one wait. Raises ``TimeoutError`` that says ``what`` has not happened, or that it is not known."""
        scope = asyncio.timeout_at(self._at)
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            error = watch.timed_out(what(), self._timeout or 0.0)
            raise error from error.__cause__


def _several(execution_ids: Iterable[_Id]) -> Iterable[_Id]:
    # It is iterable, too, by its characters.
    if isinstance(execution_ids, str):
        raise Validation("execution ids", "several are needed, as in a list, not one string")
    return execution_ids


def _wait(
    backend: CompletionBackend,
    ids: Iterable[ExecutionId],
    *,
    timeout: float | None = None,
    result: bool = False,
    missing: Missing = "error",
    poll_interval: float = 1.0,
) -> Wait:
    """The options of ``WaitOptions``, checked; the defaults are here."""
    if timeout is not None:
        timeout = check_seconds("timeout", timeout, most=math.inf)
    poll_interval = check_seconds("poll_interval", poll_interval, above_zero=True, most=math.inf)
    if missing not in ("error", "wait"):
        raise Validation("missing", f"{missing!r} is neither 'error' nor 'wait'")
    if result and not isinstance(backend, ExecutionReader):
        raise Unavailable("result=True", f"{type(backend).__name__} cannot read stored results")
    return Wait(ids, result=result, missing_fails=missing == "error", interval_s=poll_interval, timeout_s=timeout)


async def _as_completed(backend: CompletionBackend, wait: Wait) -> AsyncGenerator[CompletionPayload]:
    running_loop("waiting")
    if not wait.pending:
        return
    deadline, wanted = _Deadline(wait.timeout_s), len(wait.pending)

    def late() -> str:
        if wanted == 1:
            return f"{next(iter(wait.pending), 'it')} has not finished"
        return f"{len(wait.pending)} of {wanted} executions have not finished"

    if wait.timeout_s == 0 and isinstance(backend, ExecutionReader):
        await _look(backend, wait)
        while wait.answers:
            yield wait.answers.popleft()
        if wait.pending:
            raise TimeoutError(f"{late()} within 0 s")
        return
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(watching(backend))
        # Before the stream is there: what it yields first, without a turn of the loop, is news too.
        stack.enter_context(watch.waiting(wait))
        change = watch.open()
        while True:
            await _in_time(deadline.of(watch, late), wait, change)
            while wait.answers:
                yield wait.answers.popleft()
            if not wait.pending:
                return
            watch.waitlist.raise_failure(wait)
            change = _change(wait)


async def _look(reader: ExecutionReader, wait: Wait) -> None:
    """Ask for the stored state once, and listen to nothing. Raises ``NotFound``, and ``StateUnknown`` without an answer."""
    waitlist = Waitlist()
    waitlist.add(wait)
    started = asyncio.get_running_loop().time()
    while ids := waitlist.take_unread(_WITH_RESULTS if wait.result else _AT_ONCE):
        try:
            async with asyncio.timeout(_LOOK_S):
                found = await reader.describe_executions(ids, result=wait.result)
        except (Transport, ResourceExhausted, TimeoutError) as exc:
            raise StateUnknown(str(ids[0]), asyncio.get_running_loop().time() - started) from exc
        waitlist.read(ids, found, results=True)
    waitlist.raise_failure(wait)


async def _flow_now(backend: FlowBackend, flow: FlowId, wait: Wait) -> dict[ExecutionId, CompletionPayload]:
    """The members' completions, if all have finished by now."""
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(_LOOK_S):
            members = await backend.flow_members(flow)
    except (Transport, ResourceExhausted, TimeoutError) as exc:
        raise StateUnknown(f"flow {flow}", asyncio.get_running_loop().time() - started) from exc
    if not members and wait.missing_fails:
        raise NotFound(f"flow {flow}")
    wait.missing_fails = False
    wait.pending.update(dict.fromkeys(members))
    if members:
        await _look(backend, wait)
    if wait.pending or not members:
        raise TimeoutError(f"flow {flow} has not finished within 0 s")
    found = {completion.execution_id: completion for completion in wait.answers}
    return {id_: found[id_] for id_ in members}


async def _in_time(
    limit: AbstractAsyncContextManager[None], wait: Wait, change: Coroutine[object, object, None]
) -> None:
    try:
        async with limit:
            await change
    except TimeoutError:
        # What is known by now, if only by this very turn of the loop, is not late.
        if not wait.answers and wait.failed is None:
            raise


async def _change(wait: Wait) -> None:
    await wait.changed.wait()
    wait.changed.clear()


async def _finished(watch: Watch, wait: Wait) -> None:
    """All that is pending has finished, or one interval has passed."""
    try:
        async with asyncio.timeout(wait.interval_s):
            watch.waitlist.raise_failure(wait)
            if not wait.pending:
                await asyncio.sleep(wait.interval_s)
            while wait.pending:
                await _change(wait)
                watch.waitlist.raise_failure(wait)
    except TimeoutError:
        return


async def _asked(question: Coroutine[object, object, _T]) -> _T | None:
    """The answer, or None where the server cannot be asked just now. Raises ``Unavailable``."""
    try:
        return await question
    except (Transport, ResourceExhausted):
        return None
