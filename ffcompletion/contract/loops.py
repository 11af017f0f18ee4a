"""Which event loop the caller runs on, and what runs there for all callers. This library knows asyncio alone, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import TypeVar

from ffcompletion.contract.errors import Unavailable

__all__ = ["running_loop", "shared_task"]

_T = TypeVar("_T")


def running_loop(op: str) -> asyncio.AbstractEventLoop:
    """The loop that the caller runs on. Raises ``Unavailable`` where there is none, or it is another library's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise Unavailable(op, "no asyncio event loop is running here; ffcompletion runs on asyncio alone") from None


def shared_task(work: Coroutine[object, object, _T], name: str) -> asyncio.Task[_T]:
    """A task that serves whoever comes, in nobody's context: whoever is first would be kept alive by it, and named in its
    log lines. On the loop that runs; its caller owns it.
    """
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())
