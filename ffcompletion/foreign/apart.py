"""Where somebody's plain function runs: in no task of ours, and with ``Apart`` in its own context."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]  # documented, for frameworks
from collections.abc import Callable
from contextvars import copy_context
from typing import Final, TypeVar, TypeVarTuple, Unpack, final

__all__ = ["Apart", "in_no_task"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_NOTHING: Final = object()


def in_no_task(function: Callable[[Unpack[_Args]], _T], *args: *_Args) -> _T:
    """Call it; whoever looks for the current task, perhaps to cancel it, finds none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        # No loop runs in this thread.
        task = None
    if task is None:
        return function(*args)
    loop = task.get_loop()
    _leave_task(loop, task)
    try:
        return function(*args)
    finally:
        _enter_task(loop, task)


@final
class Apart:
    """The context that it was made in: what a function finds there, whoever's task happens to call it."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context = copy_context()

    def run(self, function: Callable[[Unpack[_Args]], _T], *args: *_Args) -> _T:
        """Call it. What it sets there lasts as long as the call, and the task that it would cancel is not to be had."""
        # A context cannot be entered twice, and a function may lead to itself.
        run = self._context.copy().run
        return in_no_task(lambda: run(function, *args))

    def finds_what(self, other: Apart) -> bool:
        """Whether a function finds the very same in both."""
        mine, others = self._context, other._context
        return len(mine) == len(others) and all(mine[each] is others.get(each, _NOTHING) for each in mine)
