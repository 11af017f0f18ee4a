"""Every error this library raises on purpose.

::

    EngineError
     ├── Unavailable        the backend cannot do this, here or now (set-up, missing right, missing extra)
     ├── Transport          the connection failed while set-up was being done
     ├── Validation         what the caller handed in cannot be right
     │    └── CursorExpired the rows after this cursor are gone
     ├── NotFound           no such execution or flow
     ├── ResourceExhausted  a bound was reached: pool, connections, memory
     └── StateUnknown       a wait timed out while the state could not be asked; also a TimeoutError

No driver exception reaches a caller: it is the ``__cause__`` of one of these. No message carries a password.
"""

from __future__ import annotations

from typing_extensions import override

__all__ = [
    "CursorExpired",
    "EngineError",
    "NotFound",
    "ResourceExhausted",
    "StateUnknown",
    "Transport",
    "Unavailable",
    "Validation",
]


class EngineError(Exception):
    """Base of every error raised by this library."""


class Unavailable(EngineError):
    """The backend cannot do what was asked, and trying again unchanged will not help at once.

    Raised when an operation is not implemented (a filter on a backend without filtering), when the server lacks
    something (schema, right, version), or when an optional dependency is not installed.
    """

    def __init__(self, op: str, reason: str = "") -> None:
        super().__init__(op, reason)
        self.op = op
        self.reason = reason

    @override
    def __str__(self) -> str:
        return f"{self.op} is not available: {self.reason}" if self.reason else f"{self.op} is not available"


class Transport(EngineError):
    """The connection to a server could not be made, or broke, while a call was waiting for it.

    Raised by subscribe calls only; a live stream mends its connection itself and never raises this.
    """

    def __init__(self, backend: str, reason: str = "") -> None:
        super().__init__(backend, reason)
        self.backend = backend
        self.reason = reason

    @override
    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}" if self.reason else f"{self.backend}: the connection failed"


class Validation(EngineError):
    """A value handed in by the caller cannot be right: malformed id, URL, filter, cursor."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    @override
    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class CursorExpired(Validation):
    """Rows after this cursor have been trimmed from the log: resuming here would skip completions silently.

    Start from ``StreamCursor.beginning()`` (what is left) or ``StreamCursor.empty()`` (from now), and reconcile
    what lies between by reading state.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("cursor", detail)

    @override
    def __reduce__(self) -> tuple[type[CursorExpired], tuple[str]]:
        # Made from one argument where its base takes two; for copy and pickle.
        return type(self), (self.detail,)


class NotFound(EngineError):
    """The entity does not exist on the server (never did, or its retention is over)."""

    def __init__(self, entity: str) -> None:
        super().__init__(entity)
        self.entity = entity

    @override
    def __str__(self) -> str:
        return f"not found: {self.entity}"


class ResourceExhausted(EngineError):
    """A bound was reached while a call was being set up, for example no pool connection became free in time."""

    def __init__(self, resource: str, reason: str = "") -> None:
        super().__init__(resource, reason)
        self.resource = resource
        self.reason = reason

    @override
    def __str__(self) -> str:
        return f"{self.resource} exhausted: {self.reason}" if self.reason else f"{self.resource} exhausted"


class StateUnknown(EngineError, TimeoutError):
    """A wait timed out, and whether what it waited for has finished is not known: the state could not be asked.

    Unlike any other ``TimeoutError`` of a wait, which means "not finished, as of now". Raised by the ``wait_for_…``
    functions and ``as_completed``; the last fault, where there is one, is its ``__cause__``.
    """

    def __init__(self, waited_for: str, unanswered_s: float) -> None:
        super().__init__(waited_for, unanswered_s)
        self.waited_for = waited_for
        self.unanswered_s = unanswered_s
        """For how many seconds nothing has answered."""

    @override
    def __str__(self) -> str:
        why = f" ({self.__cause__})" if self.__cause__ is not None else ""
        return (
            f"it is not known whether {self.waited_for} finished: the state could not be asked for"
            f" {self.unanswered_s:.1f} s{why}"
        )
