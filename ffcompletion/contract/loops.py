"""Which event loop the caller runs on: this library knows asyncio alone, and says so instead of failing somewhere inside."""

from __future__ import annotations

import asyncio

from ffcompletion.contract.errors import Unavailable

__all__ = ["running_loop"]


def running_loop(op: str) -> asyncio.AbstractEventLoop:
    """The loop that the caller runs on. Raises ``Unavailable`` where there is none, or it is another library's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise Unavailable(op, "no asyncio event loop is running here; ffcompletion runs on asyncio alone") from None
