"""What the server has stored about one execution."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

import msgspec

from ffcompletion.contract.ids import ExecutionId, FlowId

__all__ = ["ExecutionSnapshot"]

_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


@final
class ExecutionSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One execution as stored at the moment of the read. Immutable."""

    execution_id: ExecutionId
    namespace: str | None = None
    flow_id: FlowId | None = None
    """None for a solo execution."""
    lane: str | None = None
    tags: Mapping[str, str] = _NO_TAGS
    phase: str = ""
    """The server's own word: submitted, runnable, active, suspended, terminal (Postgres: also cancelled)."""
    terminal_outcome: str | None = None
    """success, failed, cancelled, expired or skipped; None while it has not finished."""
    completed_at_ms: int = 0
    """When it finished, ms since the Unix epoch; 0 while it has not, or where it is not stored."""
    result: bytes | None = None
    """The stored result, where it was asked for and there is one."""

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has finished (and has not been replayed since)."""
        return self.terminal_outcome is not None
