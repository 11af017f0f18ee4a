"""What a stream yields: one value per completion."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, final

import msgspec

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.ids import ExecutionId, FlowId

__all__ = ["CompletionPayload", "Outcome", "kind_of"]


class Outcome(StrEnum):
    """How an execution ended. ``OTHER`` is a wire string that this version does not know: read ``payload.outcome``."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    OTHER = "other"


_KINDS: Final[dict[str, Outcome]] = {
    "success": Outcome.SUCCESS,
    "failed": Outcome.FAILED,
    # The engine's scanner writes `failure` in places where its Lua writes `failed`.
    "failure": Outcome.FAILED,
    "cancelled": Outcome.CANCELLED,
    "expired": Outcome.EXPIRED,
    "skipped": Outcome.SKIPPED,
}


def kind_of(outcome: str) -> Outcome:
    """The enum of an outcome as the wire has it; anything unknown is ``OTHER``."""
    return _KINDS.get(outcome, Outcome.OTHER)


@final
class CompletionPayload(msgspec.Struct, frozen=True, gc=False):
    """The fact that an execution reached a terminal state. Immutable.

    An execution that is replayed and finishes again is announced again: several payloads per id are legitimate.
    """

    execution_id: ExecutionId
    """Which execution, ``{fp:N}:<uuid>``."""
    outcome: str
    """The wire's own string, verbatim; ``""`` where the announcement had none. ``kind`` is the enum."""
    payload_bytes: bytes | None = None
    """The stored result, where the subscriber asked for results and there is one; else None."""
    produced_at_ms: int = 0
    """When it happened, in ms since the Unix epoch by the server's clock; 0 where the wire has no time."""
    flow_id: FlowId | None = None
    """The flow it belongs to; None for a solo execution."""
    cursor: StreamCursor | None = None
    """Where to resume so that nothing after this payload is lost; None on backends that cannot resume."""

    @property
    def kind(self) -> Outcome:
        """``outcome`` as an enum; both ``failed`` and ``failure`` are ``FAILED``, anything unknown is ``OTHER``."""
        return _KINDS.get(self.outcome, Outcome.OTHER)
