"""What the author of a backend supplies: how to make one, how to make things happen behind it, and what it promises."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, final, runtime_checkable

import msgspec

from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.protocols import CompletionBackend

__all__ = ["FLOW", "Announcer", "Execution", "Factory", "FaultInjector", "Options", "fresh"]

Factory = Callable[[], CompletionBackend]
"""Makes a backend that is connected to where the announcer announces. If it has an ``aclose``, the kit calls it.

Give it a small buffer (a few hundred completions) where it has one: the checks of slow consumers fill it.
"""

FLOW: Final = FlowId("a76a8496-6e9c-457a-8727-b5169796f3cd")
"""The flow that the kit's executions belong to."""


@final
class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that is to finish. Everything that a stream may be asked to tell, or a filter to decide by."""

    execution_id: ExecutionId
    outcome: str = "success"
    flow_id: FlowId | None = FLOW
    namespace: str | None = None
    tags: Mapping[str, str] = {}
    result: bytes | None = None


class Announcer(Protocol):
    """The producer's side: makes executions finish, as the backend's own producers would."""

    async def announce(self, *executions: Execution) -> None:
        """Finish these, in order. When it returns they have been committed and announced."""
        ...


@runtime_checkable
class FaultInjector(Protocol):
    """Hurts the connection between a backend and its server. A fault that cannot be injected raises
    ``NotImplementedError``, and its checks are skipped.
    """

    async def disconnect(self) -> None:
        """Cut every connection of the backend; it may connect again at once."""
        ...

    async def mute(self) -> None:
        """From now on nothing passes in either direction, and nobody says so (a half-open connection)."""
        ...

    async def unmute(self) -> None:
        """It passes again, on new connections at least."""
        ...

    async def restart(self) -> None:
        """The server crashes and comes back. When it returns it can be announced to again."""
        ...


@final
class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the backend promises beyond the seven clauses, and what the author can supply beyond the announcer."""

    faults: FaultInjector | None = None
    """Without it nothing is checked that needs a fault."""
    unreachable: Factory | None = None
    """Makes a backend whose server is not there; without it, the failure of set-up is not checked."""
    connections: Callable[[], Awaitable[int]] | None = None
    """How many connections backends hold on the server; without it, only tasks are checked for being left behind."""
    ordered: bool = True
    """Whether completions arrive in the order they were announced in."""
    once: bool = True
    """Whether each is delivered once as long as nothing is broken (at least once is what a fault may make of it)."""
    lossless: bool = True
    """Whether what was announced during a disconnect or a restart is delivered afterwards."""
    burst: int = 150
    """Completions that are announced at once, and that a stream has room for."""
    flood: int = 2_000
    """Completions that are announced while a consumer does not read: more than a stream has room for."""
    holds: int | None = None
    """Completions that one stream holds at the most, by its ``stats().buffered``; without it, that is not checked."""
    remembers: int = 0
    """Completions that the backend keeps something of for its own purposes, whoever reads; a bound, not a buffer."""
    patience_s: float = 10.0
    """Seconds within which whatever must happen happens."""
    setup_s: float = 15.0
    """Seconds within which set-up succeeds or raises."""
    closing_s: float = 2.0
    """Seconds within which closing is done."""


_numbers: Final = itertools.count(1)


def fresh(
    *,
    outcome: str = "success",
    namespace: str | None = None,
    tags: Mapping[str, str] | None = None,
    flow_id: FlowId | None = FLOW,
    result: bytes | None = None,
) -> Execution:
    """An execution that nobody has used before, in one of 256 partitions."""
    number = next(_numbers)
    return Execution(
        execution_id=ExecutionId(f"{{fp:{number % 256}}}:{uuid.uuid4()}"),
        outcome=outcome,
        flow_id=flow_id,
        namespace=namespace,
        tags=tags or {},
        result=result,
    )
