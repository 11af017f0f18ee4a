"""What clients want to know of executions, asked together: a thousand requests at once are a few questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Final, final

from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.loops import shared_task
from ffcompletion.contract.protocols import ExecutionReader
from ffcompletion.contract.snapshot import ExecutionSnapshot

__all__ = ["Questions"]

_AT_ONCE: Final = 1_000

_Answer = asyncio.Future[ExecutionSnapshot | None]


@final
class Questions:
    """Owns one task while there is something to ask: one question at a time, for whoever has come meanwhile."""

    def __init__(self, reader: ExecutionReader) -> None:
        self._reader = reader
        self._wanted: dict[ExecutionId, _Answer] = {}
        self._asking: asyncio.Task[None] | None = None

    async def describe(self, id_: ExecutionId) -> ExecutionSnapshot | None:
        """As ``describe_execution``. Raises what that raises."""
        answer = self._wanted.get(id_)
        if answer is None:
            answer = self._wanted[id_] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = shared_task(self._ask(), "ffcompletion-web-ask")
        # Others may wait for the same.
        return await asyncio.shield(answer)

    async def _ask(self) -> None:
        try:
            while self._wanted:
                ids = list(islice(self._wanted, _AT_ONCE))
                answers = [self._wanted.pop(id_) for id_ in ids]
                await self._answer(ids, answers)
        finally:
            self._asking = None

    async def _answer(self, ids: Sequence[ExecutionId], answers: Sequence[_Answer]) -> None:
        try:
            found = await self._reader.describe_executions(ids)
            for answer, snapshot in zip(answers, found, strict=True):
                answer.set_result(snapshot)
        except BaseException as exc:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(exc)
                    # Whoever waited may be gone.
                    answer.exception()
            if not isinstance(exc, Exception):
                raise
