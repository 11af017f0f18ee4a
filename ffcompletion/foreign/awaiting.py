"""``called`` and ``asked``: how code that is not ours is called where it has to be awaited: stores, credentials, handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from ffcompletion.contract.errors import Unavailable
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.keyboard import from_the_keyboard

__all__ = ["asked", "called"]

_T = TypeVar("_T")


async def called(what: str, function: Callable[[], Awaitable[_T]], /) -> _T:
    """Call and await it. Raises what it raises, but only ever an ``Exception``.

    A ``CancelledError`` that is nobody's cancelling of this task, and whatever else would end a task in silence, become
    ``Unavailable`` of ``what``.
    """
    task = asyncio.current_task()
    cancels = 0 if task is None else task.cancelling()
    try:
        return await function()
    except Exception:
        raise
    except asyncio.CancelledError as exc:
        if task is None or task.cancelling() > cancels:
            raise
        raise Unavailable(what, "the code that was called for it raised CancelledError") from exc
    except BaseException as exc:
        if from_the_keyboard(exc):
            raise
        raise Unavailable(what, f"the code that was called for it raised {name_of(exc)}") from exc


async def asked(what: str, function: Callable[[], object], /) -> object:
    """The same for code that may be plain or ``async``: what it answers, awaited where that can be."""

    async def ask() -> object:
        answer = function()
        return await cast("Awaitable[object]", answer) if isinstance(answer, Awaitable) else answer

    return await called(what, ask)
