"""Tables of which row-level security may hide rows from our role: told once each, when it begins and when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from ffcompletion.foreign.logs import logger

__all__ = ["Restrictions"]

_log: Final = logger("ffcompletion.postgres")
# Somebody may switch it on at any time, and nothing but silence would come of it.
_EVERY_S: Final = 30.0


@final
class Restrictions:
    """What was found of them last. The clock is passed in, in seconds."""

    def __init__(self) -> None:
        self._tables: frozenset[str] = frozenset()
        self._due_at = 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to look again."""
        return now >= self._due_at

    def found(self, tables: Iterable[str], now: float) -> None:
        """These are restricted now."""
        self._due_at = now + _EVERY_S
        before, self._tables = self._tables, frozenset(tables)
        for table in sorted(self._tables - before):
            _log.warning(
                "row-level security is in force for our role on %s: what no policy admits is not delivered", table
            )
        for table in sorted(before - self._tables):
            _log.info("row-level security is no longer in force for our role on %s", table)
