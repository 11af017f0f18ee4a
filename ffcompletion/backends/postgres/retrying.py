"""Looking records up until they are there: each question on a connection of its own, tried again after a fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar, final

import psycopg

from ffcompletion.backends.postgres.connection import Connection
from ffcompletion.backends.postgres.facts import Record
from ffcompletion.backends.postgres.lookups import Lookups, Result
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.results import Budget
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.foreign.logs import logger

__all__ = ["Retrying", "Waiting"]

_T = TypeVar("_T")
_log: Final = logger("ffcompletion.postgres")


class Waiting(Protocol):
    """Whose rows wait for the answers."""

    history: int
    """Changes when what waits is no longer what it was."""
    budget: Budget

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        ...

    def queries_on(self, conn: Connection | None, /) -> None:
        """A question is under way on this connection; None: no longer."""
        ...


@final
class Retrying:
    """One turn of looking up: each question is put again until it is answered, or what waits is no longer what it was."""

    def __init__(self, waiting: Waiting, pool: Pool, lookups: Callable[[], Lookups], seconds: float) -> None:
        self._waiting = waiting
        self._history = waiting.history
        self._pool = pool
        self._lookups = lookups
        self._seconds = seconds
        self._backoff = Backoff(0.05, 2.0)
        self.budget: Budget = waiting.budget

    @property
    def outdated(self) -> bool:
        """What waits now is no longer what was asked about."""
        return self._history != self._waiting.history

    async def records(self, names: Sequence[str]) -> Mapping[str, Record]:
        """The records; empty if outdated meanwhile."""
        found = await self._answer(lambda conn: self._lookups().records(conn, names, self._seconds))
        return {} if found is None else found

    async def rows(self, ids: Sequence[int]) -> Sequence[Row]:
        """The outbox's rows with these ids; empty if outdated meanwhile."""
        found = await self._answer(lambda conn: self._lookups().rows(conn, ids, self._seconds))
        return () if found is None else found

    async def results(self, names: Sequence[str]) -> Mapping[str, Result] | None:
        """The results; None after a failure: then fewer are to be asked for."""
        seconds = self._seconds * self.budget.patience
        started = time.monotonic()
        found = await self._try(lambda conn: self._lookups().results(conn, names, seconds), results=True)
        if found is None:
            self.budget.shrink(len(names))
        else:
            self.budget.grow(time.monotonic() - started)
        return found

    async def _answer(self, question: Callable[[Connection], Awaitable[_T]]) -> _T | None:
        """None if outdated meanwhile."""
        while not self.outdated:
            if (found := await self._try(question, results=False)) is not None:
                return found
        return None

    async def _try(self, question: Callable[[Connection], Awaitable[_T]], *, results: bool) -> _T | None:
        try:
            async with self._pool.connection(timeout=self._seconds, results=results) as conn:
                self._waiting.queries_on(conn)
                try:
                    answer = await question(conn)
                finally:
                    self._waiting.queries_on(None)
        except (psycopg.Error, OSError) as exc:
            if self.outdated:
                return None
            if self._backoff.attempt == 0:
                _log.warning(
                    "records could not be asked for (%s); %d rows are withheld, and it is tried again",
                    type(exc).__name__, self._waiting.waiting,
                )  # fmt: skip
            await asyncio.sleep(self._backoff.next_delay())
            return None
        self._backoff.reset()
        return answer
