"""One completion through a handler: tried again, and handed on where it keeps failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.foreign.awaiting import called

__all__ = ["Failed", "Handler", "ended_saver", "handled", "set_within"]

Handler = Callable[[CompletionPayload], Awaitable[object]]
Failed = Callable[[CompletionPayload, Exception], Awaitable[object]]

# Tried again after this, then after twice as long, and so on up to the longest.
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
# A store that was cancelled in the middle of a save is given so long to notice.
_GIVE_UP_S: Final = 1.0


async def handled(handler: Handler, completion: CompletionPayload, attempts: int, failed: Failed | None) -> bool:
    """Whether the handler ended well. Else what failed has been handed on; where there is nobody for it, it is raised."""
    pause = _FIRST_PAUSE_S
    for _ in range(attempts - 1):
        try:
            await called("the handler", lambda: handler(completion))
        except Exception:  # noqa: BLE001  # it gets another try
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        else:
            return True
    try:
        await called("the handler", lambda: handler(completion))
    except Exception as exc:
        if failed is None:
            raise
        await _hand_on(failed, completion, exc)
        return False
    return True


async def _hand_on(failed: Failed, completion: CompletionPayload, error: Exception) -> None:
    await called("the handler of what failed", lambda: failed(completion, error))


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, for so long at the most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def ended_saver(saver: asyncio.Task[None]) -> None:
    """Wait for the last save. Cancelled, it is given up: no task stays behind."""
    try:
        await asyncio.wait([saver])
    finally:
        if not saver.done():
            saver.cancel()
            await asyncio.wait([saver], timeout=_GIVE_UP_S)
