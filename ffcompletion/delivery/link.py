"""The reconnect machine that both networked adapters drive: which state the live source is in, and who is told.

No I/O and no clock. One log line and one observer call per change of state, never per attempt.
"""

from __future__ import annotations

import logging
from typing import final

from ffcompletion.contract.stats import BackendEvent, BackendState, Observer
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.foreign.logs import Logger
from ffcompletion.foreign.observers import contained_observer

__all__ = ["Link"]


@final
class Link:
    """State of one backend's live source. Moves only where the methods below move it."""

    __slots__ = ("_backoff", "_log", "_name", "_observer", "_reconnects", "_state")

    def __init__(self, name: str, log: Logger, observer: Observer | None, backoff: Backoff) -> None:
        self._name = name
        self._log = log
        self._observer = contained_observer(observer, log)
        self._backoff = backoff
        self._state = BackendState.IDLE
        self._reconnects = 0

    @property
    def state(self) -> BackendState:
        """The state now."""
        return self._state

    @property
    def reconnects(self) -> int:
        """How often the source came back after a fault."""
        return self._reconnects

    @property
    def flowing(self) -> bool:
        """Whether completions reach streams: live or polling."""
        return self._state in (BackendState.LIVE, BackendState.POLLING)

    def connecting(self) -> None:
        """Set-up begins."""
        self._enter(BackendState.CONNECTING, logging.DEBUG, "")

    def live(self) -> None:
        """Announcements arrive."""
        self._arrived(BackendState.LIVE, logging.INFO, "")

    def polling(self, why: str) -> None:
        """No announcement arrives, but stored completions can be polled."""
        self._arrived(BackendState.POLLING, logging.WARNING, why)

    def broken(self, why: str) -> float:
        """A fault. Returns how many seconds to wait before the next attempt."""
        self._enter(BackendState.RECONNECTING, logging.WARNING, why)
        return self._backoff.next_delay()

    def idle(self) -> None:
        """The last stream was closed; nothing is held on the server any more."""
        self._backoff.reset()
        self._enter(BackendState.IDLE, logging.DEBUG, "")

    def closed(self) -> None:
        """The backend was closed by its owner."""
        self._enter(BackendState.CLOSED, logging.DEBUG, "")

    def _arrived(self, state: BackendState, level: int, why: str) -> None:
        self._backoff.reset()
        if self._state is BackendState.RECONNECTING:
            self._reconnects += 1
        self._enter(state, level, why)

    def _enter(self, state: BackendState, level: int, why: str) -> None:
        if state is self._state or self._state is BackendState.CLOSED:
            return
        self._state = state
        self._log.log(level, "%s: %s%s", self._name, state.value, f" ({why})" if why else "")
        self._observer(BackendEvent(self._name, state, why))
