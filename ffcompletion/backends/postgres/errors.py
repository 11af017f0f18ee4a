"""The driver's errors in our words: told apart by type, SQLSTATE and what libpq knows, never by localised text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, final

import psycopg

from ffcompletion.contract.errors import EngineError, ResourceExhausted, Transport, Unavailable

__all__ = [
    "INSTALL",
    "LastWords",
    "PoolBusy",
    "PoolOver",
    "driver_errors",
    "first_line",
    "is_refusal",
    "kind_of",
    "may_pass",
    "translated",
]

# A refusal by the server comes as "…: SEVERITY:  text". The word may be in any language; libpq's own complaints never
# have the two blanks.
_REFUSED: Final = re.compile(r": \w+:  ")
_WILL_NOT_PASS: Final = frozenset(
    {
        "28",  # invalid authorization
        "3D",  # no such database
        "3F",  # no such schema
        "42",  # no such table, no right, …
    }
)
_OUT_OF_RESOURCES: Final = "53"
INSTALL: Final = (
    "name the engine's schema with schema=, or, without FlowFabric, run `ffcompletion producers install URL`"
)
"""What to do where the tables are not there."""
_OURS: Final = re.compile("ff_completion_event|ff_exec_core")


@final
class PoolBusy(psycopg.OperationalError):
    """No connection became free in time."""


@final
class PoolOver(psycopg.OperationalError):
    """The pool was closed meanwhile."""


@asynccontextmanager
async def driver_errors(shown: str, op: str) -> AsyncGenerator[None]:
    """Whatever the driver raises inside comes out as one of our errors, with the driver's as its cause."""
    try:
        yield
    except psycopg.Error as exc:
        raise translated(exc, shown, op) from exc
    except TimeoutError as exc:
        raise Transport(shown, first_line(exc) or f"{op}: no answer in time") from exc
    except OSError as exc:
        raise Transport(shown, first_line(exc) or type(exc).__name__) from exc


def translated(exc: psycopg.Error, shown: str, op: str) -> EngineError:
    """The driver's error in our words."""
    text = first_line(exc) or type(exc).__name__
    if isinstance(exc, psycopg.errors.UndefinedTable) and _OURS.search(text):
        text = f"{text}; {INSTALL}"
    if isinstance(exc, PoolBusy):
        return ResourceExhausted("connection pool", text)
    if isinstance(exc, PoolOver):
        return Unavailable(op, text)
    state = exc.sqlstate
    if state is None:
        return Unavailable(op, text) if is_refusal(exc) else Transport(shown, text)
    if state[:2] == _OUT_OF_RESOURCES:
        return ResourceExhausted(shown, text)
    return Unavailable(op, text) if state[:2] in _WILL_NOT_PASS else Transport(shown, text)


@final
class LastWords:
    """Listens on a connection for why the server ends it: where nothing is being asked, that comes as a notice, and all
    that the driver then finds is the end.
    """

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn
        self._said: psycopg.OperationalError | None = None
        conn.add_notice_handler(self._noticed)

    def _noticed(self, said: psycopg.errors.Diagnostic) -> None:
        if said.severity_nonlocalized in ("FATAL", "PANIC"):
            self._said = _last_words(said.sqlstate, said.message_primary)

    def instead_of(self, exc: Exception) -> Exception:
        """What the server said, where it said why it ends, and the driver does not."""
        return self._said if self._said is not None and isinstance(exc, psycopg.Error) and not exc.sqlstate else exc

    def detach(self) -> None:
        """Listen no more: the connection may be somebody else's."""
        with contextlib.suppress(ValueError):
            self._conn.remove_notice_handler(self._noticed)


def _last_words(state: str | None, text: str | None) -> psycopg.OperationalError:
    try:
        kind = psycopg.errors.lookup(state or "")
    except KeyError:
        kind = psycopg.OperationalError
    return (kind if issubclass(kind, psycopg.OperationalError) else psycopg.OperationalError)(text or "FATAL")


def may_pass(exc: psycopg.Error) -> bool:
    """Whether the same question may be answered on another connection: this one, or the server behind it, is gone.

    A server that took too long, or did not get a lock, is there.
    """
    return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError) and not isinstance(
        exc, PoolBusy | PoolOver | psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable
    )


def kind_of(exc: BaseException) -> str:
    """What sort of fault it is, for telling each sort once: class, SQLSTATE, and whether the server refused us."""
    refused = isinstance(exc, psycopg.Error) and is_refusal(exc)
    return f"{type(exc).__name__} {getattr(exc, 'sqlstate', None) or ''}{' refused' if refused else ''}"


def is_refusal(exc: psycopg.Error) -> bool:
    """Whether a connection was refused after a password was asked for: by it, or by what it was to open.

    A server that is starting, stopping or full says so before it asks.
    """
    pgconn = exc.pgconn
    if pgconn is None:
        return False
    return bool(pgconn.needs_password or (pgconn.used_password and _REFUSED.search(first_line(exc))))


def first_line(exc: BaseException) -> str:
    """The first line of an error's text; what follows are hints and positions."""
    return str(exc).strip().split("\n", 1)[0]
