"""``checkpointed`` for code that blocks."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, final

from ffcompletion.consumers.processing import Checkpointed as AsyncCheckpointed
from ffcompletion.consumers.progress import Processed
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.numbers import check_count
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.stats import Lag
from ffcompletion.sync.loop import LoopThread

__all__ = ["Checkpointed"]

_T = TypeVar("_T")


@final
class Checkpointed:
    """What ``Backend.checkpointed`` returns; use it in ``with``, with one ``for`` loop or one ``run`` inside."""

    def __init__(self, loop: LoopThread, inner: AsyncCheckpointed) -> None:
        self._loop = loop
        self._inner = inner
        self._begun = False

    def __enter__(self) -> Self:
        # The loop outlives the backend, should that be closed in here: the position is still to be stored, and a lease
        # to be given back.
        self._loop.enter(self)
        try:
            self._loop.run(self._begin)
        except BaseException as exc:
            # An interrupt may come in the very moment that it has begun.
            try:
                if self._begun:
                    self._loop.run(partial(self._inner.__aexit__, type(exc), exc, exc.__traceback__))
            finally:
                self._loop.leave(self)
            raise
        return self

    async def _begin(self) -> None:
        await self._inner.__aenter__()
        self._begun = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run(lambda: self._inner.__aexit__(kind, error, trace))
        finally:
            if os.getpid() == self._loop.pid:
                self._loop.leave(self)

    def __iter__(self) -> Self:
        """Begin a loop. What an earlier one had in hand when it was left is not processed, and comes again first."""
        self._loop.call(self._inner.__aiter__)
        return self

    def __next__(self) -> CompletionPayload:
        """The next completion; the one before is processed then, so one thread at a time may ask."""
        completion = self._loop.run(lambda: _next(self._inner))
        if completion is None:
            raise StopIteration
        return completion

    @property
    def lag(self) -> Lag:
        """How far this consumer is behind. Meaning and errors of the asynchronous ``lag``."""
        return self._loop.run(lambda: _lag(self._inner))

    def commit(self) -> None:
        """Everything yielded so far is processed, the completion in hand too; returns when that is stored."""
        self._loop.run(self._inner.commit)

    def stop(self, *, drain: bool = True) -> None:
        """End the loop, or the ``run``, from any thread, without closing the backend. Idempotent.

        ``run`` then waits for what is in work. With ``drain=False`` that is not counted as processed, and comes again
        next time; a handler that runs in a thread cannot be interrupted, and ends by itself.
        """
        self._loop.call(partial(self._inner.stop, drain=drain))

    def run(
        self,
        handler: Callable[[CompletionPayload], object],
        *,
        concurrency: int = 1,
        attempts: int = 1,
        failed: Callable[[CompletionPayload, Exception], object] | None = None,
    ) -> Processed:
        """Call ``handler`` for each completion, in up to ``concurrency`` threads, until ``stop()`` or the backend's end.

        Arguments, answer and errors of the asynchronous ``run``. Handlers are plain functions: ``Validation`` for one that
        is asynchronous or a generator, whose body nobody would run; or, where only its answer tells, the item has failed.
        """
        concurrency = check_count("concurrency", concurrency)
        for name, given in (("handler", handler), ("failed", failed)):
            if _is_not_plain(given):
                raise Validation(
                    name, "it is asynchronous or a generator, and would never run; a plain function is needed"
                )
        with ThreadPoolExecutor(concurrency, thread_name_prefix="ffcompletion-work") as threads:

            async def handled(completion: CompletionPayload) -> None:
                await asyncio.get_running_loop().run_in_executor(threads, _called, "handler", handler, completion)

            async def handed_on(completion: CompletionPayload, error: Exception) -> None:
                if failed is not None:
                    await asyncio.get_running_loop().run_in_executor(
                        threads, _called, "failed", partial(failed, completion), error
                    )

            return self._loop.run(
                lambda: self._inner.run(
                    handled,
                    concurrency=concurrency,
                    attempts=attempts,
                    failed=None if failed is None else handed_on,
                )
            )


def _is_not_plain(given: object) -> bool:
    while isinstance(given, partial):
        given = given.func
    methods = (given, getattr(given, "__call__", None))  # noqa: B004  # of an object that is called
    return any(
        tells(each)
        for each in methods
        for tells in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    )


def _called(name: str, function: Callable[[_T], object], argument: _T) -> None:
    try:
        answer = function(argument)
    except StopIteration as exc:
        # Nothing that is waited for can raise it, and the run would never end.
        raise RuntimeError(f"the {name} raised StopIteration") from exc
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise Validation(
            name, "its answer is to be awaited, or a generator, and has not run; a plain function is needed"
        )


async def _lag(inner: AsyncCheckpointed) -> Lag:
    return inner.lag


async def _next(inner: AsyncCheckpointed) -> CompletionPayload | None:
    return await anext(inner, None)
