"""The tasks of a run that look up what its reader does not wait for: records for filters, and silent ends."""

from __future__ import annotations

import asyncio
from typing import Final, final

from ffcompletion.backends.postgres.filtering import Filtering
from ffcompletion.backends.postgres.lookups import Lookups
from ffcompletion.backends.postgres.pool import Pool
from ffcompletion.backends.postgres.reconciler import Reconciler
from ffcompletion.backends.postgres.session import Session
from ffcompletion.contract.loops import shared_task
from ffcompletion.foreign.logs import logger

__all__ = ["Background"]

_log: Final = logger("ffcompletion.postgres")

_CLOSE_GRACE_S: Final = 0.2


@final
class Background:
    """Started once, with the first session; ended by ``aclose`` or ``abort``."""

    def __init__(self, pool: Pool, reconciler: Reconciler | None, timeout_s: float) -> None:
        self._pool = pool
        self._reconciler = reconciler
        self._timeout_s = timeout_s
        self._deciding: dict[Filtering, asyncio.Task[None]] = {}
        self._reconciling: asyncio.Task[None] | None = None
        self.lookups: Lookups
        """The questions as the server of now wants them; replaced with each session."""

    def start(self, session: Session) -> None:
        """Begin. Raises nothing."""
        reconciler = self._reconciler
        self.lookups = session.lookups()
        if reconciler is not None and session.has_core:
            self._reconciling = shared_task(
                reconciler.run(self._pool, lambda: self.lookups, self._timeout_s), "ffcompletion-postgres-reconciler"
            )
        elif reconciler is not None:
            _log.warning("what ends without a row in the outbox is not found: %s", session.core_problem)

    def decide(self, place: Filtering) -> None:
        """Streams stand there from now on."""
        if place not in self._deciding:
            self._deciding[place] = shared_task(
                place.run(self._pool, lambda: self.lookups, self._timeout_s), "ffcompletion-postgres-lookups"
            )

    async def aclose(self) -> None:
        """End all of them, together, within a moment."""
        deciding, self._deciding = self._deciding, {}
        reconciling, self._reconciling = self._reconciling, None
        async with asyncio.TaskGroup() as group:
            for place, task in deciding.items():
                group.create_task(place.aclose(task, _CLOSE_GRACE_S))
            if reconciling is not None and self._reconciler is not None:
                group.create_task(self._reconciler.aclose(reconciling, _CLOSE_GRACE_S))

    def abort(self) -> None:
        """The same, without waiting. Also where the loop is closed."""
        tasks = [*self._deciding.values(), *([] if self._reconciling is None else [self._reconciling])]
        self._deciding, self._reconciling = {}, None
        for task in tasks:
            if not task.get_loop().is_closed():
                # Its connection is the pool's, which is closed with it.
                task.cancel()
