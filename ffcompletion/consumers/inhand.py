"""What a loop has in hand: asking for the next says that it is processed, a new loop that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.payload import CompletionPayload

__all__ = ["InHand", "Work"]

Work = tuple[CompletionPayload, Callable[[], None]]
"""A completion, and what to call when it is done."""


@final
class InHand:
    """One task's at a time: two could not tell by asking for the next which of theirs is done."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._again: Work | None = None
        self._holder: asyncio.Task[object] | None = None

    def take(self, work: Work) -> CompletionPayload:
        """Into the hand of the task that runs."""
        self._work, self._holder = work, asyncio.current_task()
        return work[0]

    def done(self) -> bool:
        """It is processed; whether there was one. Raises ``Unavailable`` where it is in another task's hand."""
        self._check_holder()
        work, self._work = self._work, None
        if work is not None:
            work[1]()
        return work is not None

    def commit(self) -> None:
        """It is processed, whoever has it, and also where it was put back."""
        work, self._work, self._again = self._work or self._again, None, None
        if work is not None:
            work[1]()

    def put_back(self) -> None:
        """It is not processed, and comes again next. Raises ``Unavailable`` where it is in another task's hand."""
        self._check_holder()
        if self._work is not None:
            self._again, self._work = self._work, None

    def again(self) -> Work | None:
        """What was put back, once."""
        again, self._again = self._again, None
        return again

    def _check_holder(self) -> None:
        # A task that has ended (the one within `asyncio.wait_for`, say) has handed on what it was given.
        if self._work is None or self._holder is None or self._holder.done():
            return
        if self._holder is not asyncio.current_task():
            raise Unavailable(
                "checkpointed", "another task has a completion in hand; `run(handler, concurrency=…)` works on several"
            )
