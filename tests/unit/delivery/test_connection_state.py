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


def _state(heard: list[BackendEvent]) -> ConnectionState:
    return ConnectionState("x", logger("ffcompletion.test"), heard.append, Backoff(random=lambda: 1.0))


def test_what_a_state_means_for_its_streams() -> None:
    """Completions flow while it is live or polled; the cause of a fault is kept until it is mended."""
    heard: list[BackendEvent] = []
    state, fault = _state(heard), OSError("gone")
    assert (state.state, state.flowing, state.fault) == (BackendState.IDLE, False, None)
    state.live()
    state.broken("gone", fault)
    assert (state.flowing, state.fault, state.reconnects) == (False, fault, 0)
    state.polling("no LISTEN")
    assert (state.flowing, state.fault, state.reconnects) == (True, None, 1)
    state.broken("gone", fault)
    state.idle()
    state.connecting()
    assert (state.fault, state.flowing) == (None, False)
    assert [(event.state, event.detail) for event in heard] == [
        (BackendState.LIVE, ""), (BackendState.RECONNECTING, "gone"), (BackendState.POLLING, "no LISTEN"),
        (BackendState.RECONNECTING, "gone"), (BackendState.IDLE, ""), (BackendState.CONNECTING, ""),
    ]  # fmt: skip


def test_each_kind_of_cause_is_told_once_until_it_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    """By its class, or by what it is called; and the waiting grows all the same."""
    state = _state([])
    state.live()
    causes = [OSError("a"), OSError("b"), ValueError("c")]
    delays = [state.broken(str(cause), cause) for cause in [*causes, *causes]]
    assert delays == sorted(delays)
    state.broken("d", OSError(), kind="no room")
    state.broken("e", OSError(), kind="no room")
    state.live()
    state.broken("f", OSError())
    told = [line for line in caplog.messages if "reconnecting" in line]
    assert told == [
        "x: reconnecting (a)",
        "x: still reconnecting (c)",
        "x: still reconnecting (d)",
        "x: reconnecting (f)",
    ]
