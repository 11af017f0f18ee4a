"""The driver's errors in our words: by class and SQLSTATE, and never by a text that may be in any language."""

from __future__ import annotations

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres.errors import (
    PoolBusy,
    PoolOver,
    driver_errors,
    first_line,
    kind_of,
    may_pass,
    translated,
)

_E = psycopg.errors


@pytest.mark.parametrize(
    ("error", "ours", "said"),
    [
        (_E.InsufficientPrivilege("permission denied"), ffc.Unavailable, "permission denied"),
        (_E.InvalidPassword("FALSCH"), ffc.Unavailable, "FALSCH"),
        (_E.InvalidCatalogName("no such database"), ffc.Unavailable, "no such database"),
        (_E.UndefinedTable('relation "ff_completion_event" does not exist'), ffc.Unavailable, "producers install"),
        (_E.UndefinedTable('relation "jobs" does not exist'), ffc.Unavailable, "jobs"),
        (_E.TooManyConnections("voll"), ffc.ResourceExhausted, "voll"),
        (_E.DiskFull("no space"), ffc.ResourceExhausted, "no space"),
        (_E.AdminShutdown("terminating"), ffc.Transport, "terminating"),
        (_E.QueryCanceled("statement timeout"), ffc.Transport, "statement timeout"),
        (_E.SerializationFailure("again"), ffc.Transport, "again"),
        (psycopg.OperationalError("connection refused\nIs it running?"), ffc.Transport, "connection refused"),
        (psycopg.OperationalError(), ffc.Transport, "OperationalError"),
        (PoolBusy("all 4 were busy"), ffc.ResourceExhausted, "all 4 were busy"),
        (PoolOver("the backend is closed"), ffc.Unavailable, "closed"),
    ],
)
def test_each_error_in_our_words(error: psycopg.Error, ours: type[ffc.EngineError], said: str) -> None:
    found = translated(error, "postgres at here/x", "subscribe")
    assert type(found) is ours
    assert said in str(found)
    assert "\n" not in str(found)
    if "jobs" in said:
        assert "producers install" not in str(found), "it is somebody else's table"


@pytest.mark.parametrize("error", [_E.AdminShutdown("x"), OSError("x"), TimeoutError()])
async def test_no_drivers_error_comes_out(error: Exception) -> None:
    """It is the cause; a time-out says what was not answered."""
    with pytest.raises(ffc.Transport) as caught:
        async with driver_errors("postgres at here/x", "subscribe"):
            raise error
    assert caught.value.__cause__ is error
    if isinstance(error, TimeoutError):
        assert "subscribe: no answer in time" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (_E.AdminShutdown("x"), True),
        (psycopg.OperationalError("consuming input failed"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (_E.QueryCanceled("it took too long"), False),
        (_E.LockNotAvailable("x"), False),
        (_E.InsufficientPrivilege("x"), False),
        (PoolBusy("x"), False),
        (PoolOver("x"), False),
    ],
)
def test_what_is_worth_another_connection(error: psycopg.Error, passes: bool) -> None:
    """Where this one is gone; not where the server is there, and says no."""
    assert may_pass(error) is passes


def test_sorts_of_faults_are_told_apart() -> None:
    """By class and SQLSTATE; not by the text, in which names and numbers change."""
    one, same, other = (_E.AdminShutdown("a"), _E.AdminShutdown("b"), _E.CrashShutdown("a"))
    assert kind_of(one) == kind_of(same) != kind_of(other)
    assert kind_of(ConnectionRefusedError("a")) != kind_of(psycopg.OperationalError("a"))


def test_hints_and_positions_are_no_part_of_it() -> None:
    assert first_line(ValueError("\n what\nHINT: x")) == "what"
