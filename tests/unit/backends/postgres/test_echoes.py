"""Whether the listener still hears. With a moved clock, and a session that sends nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ffcompletion.backends.postgres.echoes import Echoes
from ffcompletion.backends.postgres.inbox import Inbox
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.foreign.logs import logger


class Line:
    """What ``Echoes`` asks of a session."""

    def __init__(self, *, in_recovery: bool = False) -> None:
        self.inbox = Inbox()
        self.in_recovery = in_recovery
        self.is_promoted = False
        self.sent: list[str] = []
        self.is_full = False

    async def promoted(self) -> bool:
        return self.is_promoted

    async def echo(self, nonce: str) -> bool:
        self.sent.append(nonce)
        return not self.is_full

    def hears(self) -> None:
        self.inbox.echoed(self.sent[-1])


class Checked:
    """Echoes over a session, in a state."""

    def __init__(self, line: Line, *, live: bool) -> None:
        self.connection = ConnectionState("x", logger("ffcompletion.test"), None, Backoff())
        if live:
            self.connection.live()
        else:
            self.connection.polling("")
        # As much of a session as is asked.
        self.line: Any = line
        self.echoes = Echoes(self.connection)

    async def at(self, now: float) -> BackendState:
        await self.echoes.check(self.line, now)
        return self.connection.state


async def test_an_echo_that_does_not_come_back_in_time_ends_a_live_session() -> None:
    """One that does lets the next be sent after a while, and no earlier."""
    line = Line()
    checked = Checked(line, live=True)
    await checked.at(0.0)
    line.hears()
    await checked.at(1.0)
    assert (line.sent, checked.echoes.next_at) == (["1"], 4.0)
    await checked.at(4.0)
    assert (line.sent, checked.echoes.next_at) == (["1", "2"], 5.5)
    await checked.at(5.4)
    with pytest.raises(psycopg.OperationalError, match="no echo"):
        await checked.at(5.5)
    checked.echoes.restart(6.0)
    assert checked.echoes.next_at == 9.0


async def test_while_polling_two_echoes_in_a_row_make_it_live() -> None:
    """Through a pooler one may come by chance; silence is no fault there, and starts the count anew."""
    line = Line()
    checked = Checked(line, live=False)
    now = 0.0
    for heard in (True, False, True, True):
        assert await checked.at(now) is BackendState.POLLING
        if heard:
            line.hears()
        now = checked.echoes.next_at
        await checked.at(now)
        now = max(now, checked.echoes.next_at)
    assert checked.connection.state is BackendState.LIVE
    assert line.sent == ["1", "2", "3", "4"]


async def test_a_late_echo_proves_nothing() -> None:
    line = Line()
    checked = Checked(line, live=False)
    await checked.at(0.0)
    await checked.at(1.5)
    for _ in range(3):
        line.hears()
    assert await checked.at(1.6) is BackendState.POLLING


async def test_a_replica_that_was_promoted_is_connected_to_anew() -> None:
    line = Line(in_recovery=True)
    checked = Checked(line, live=False)
    await checked.at(0.0)
    assert line.sent == ["1"]
    line.is_promoted = True
    with pytest.raises(psycopg.OperationalError, match="promoted"):
        await checked.at(10.0)
        await checked.at(13.0)
    assert line.sent == ["1"]


async def test_a_queue_that_is_full_ends_a_live_session_and_no_polling_one() -> None:
    line = Line()
    line.is_full = True
    with pytest.raises(psycopg.OperationalError, match="queue of notifications is full"):
        await Checked(line, live=True).at(0.0)
    checked = Checked(line, live=False)
    assert await checked.at(0.0) is BackendState.POLLING
    assert checked.echoes.next_at == 3.0
