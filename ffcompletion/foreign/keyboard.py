"""Whose interrupt a ``KeyboardInterrupt`` is: a person's goes on, whatever else is contained."""

from __future__ import annotations

import signal
import threading

__all__ = ["from_the_keyboard"]


def from_the_keyboard(error: BaseException) -> bool:
    """Whether this error, here and now, can be a person's interrupt."""
    # asyncio.run puts its own handler there, which cancels instead; and no other thread is ever interrupted.
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
