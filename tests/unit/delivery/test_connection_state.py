"""Each change of state is told once."""

from __future__ import annotations

import logging

import pytest

from ffcompletion.contract.stats import BackendEvent, BackendState
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.foreign.logs import logger


def test_connection_state_tells_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred failed attempts of one kind are one line; coming back resets the backoff and counts."""
    heard: list[BackendEvent] = []
    caplog.set_level(logging.DEBUG)
    state_of = ConnectionState("x", logger("ffcompletion.test"), heard.append, Backoff(random=lambda: 1.0))
    state_of.connecting()
    state_of.live()
    delays = [state_of.broken("gone") for _ in range(100)]
    assert delays[0] == 0.05
    assert delays[-1] == 5.0
    state_of.live()
    assert state_of.broken("again") == 0.05
    state_of.closed()
    state_of.live()
    states = [event.state for event in heard]
    assert states == [
        BackendState.CONNECTING,
        BackendState.LIVE,
        BackendState.RECONNECTING,
        BackendState.LIVE,
        BackendState.RECONNECTING,
        BackendState.CLOSED,
    ]
    assert len(caplog.records) == len(states)
    assert state_of.reconnects == 1
