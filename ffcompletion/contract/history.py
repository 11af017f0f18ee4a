"""Logs that may be replaced by others which number alike: what tells, beside a stored cursor, which one it is of."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ffcompletion.contract.cursor import StreamCursor

__all__ = ["HistoryReader"]


@runtime_checkable
class HistoryReader(Protocol):
    """A backend that knows its log again."""

    def history_at(self, cursor: StreamCursor, /) -> str:
        """What to keep beside this cursor: opaque text without blanks; blank where there is nothing to know it by."""
        ...

    async def check_history(self, cursor: StreamCursor, history: str, /) -> None:
        """Raise ``CursorExpired`` if the log is not the one that ``history`` was kept of."""
        ...
