"""Which state a backend's live source is in, and who is told: the reconnect machine that both networked adapters drive.

No I/O and no clock. One log line and one observer call for each change of state, never for each attempt; while it is
being mended, one more line for each new kind of cause.
"""

from __future__ import annotations

import logging
from typing import final

from ffcompletion.contract.stats import BackendEvent, BackendState, Observer
from ffcompletion.delivery.backoff import Backoff
from ffcompletion.foreign.logs import Logger
from ffcompletion.foreign.observers import contained_observer

__all__ = ["ConnectionState"]


@final
class ConnectionState:
    """State of one backend's live source. Moves only where the methods below move it; ``CLOSED`` is the last."""

    __slots__ = ("_backoff", "_causes", "_fault", "_log", "_name", "_observer", "_reconnects", "_state")

    def __init__(self, name: str, log: Logger, observer: Observer | None, backoff: Backoff) -> None:
        self._name = name
        self._log = log
        self._observer = contained_observer(observer, log)
        self._backoff = backoff
        self._state = BackendState.IDLE
        self._reconnects = 0
        self._fault: BaseException | None = None
        # Kinds of cause that were told since the source was last live.
        self._causes: set[str] = set()

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

    @property
    def fault(self) -> BaseException | None:
        """The last fault since the source was live, for an error that has to name its cause."""
        return self._fault

    def connecting(self) -> None:
        """Set-up begins."""
        self._fault = None
        self._enter(BackendState.CONNECTING, logging.DEBUG, "")

    def live(self) -> None:
        """Announcements arrive."""
        self._connected(BackendState.LIVE, logging.INFO, "")

    def polling(self, why: str) -> None:
        """No announcement arrives, but stored completions can be polled."""
        self._connected(BackendState.POLLING, logging.WARNING, why)

    def broken(self, why: str, fault: BaseException | None = None, *, kind: str = "") -> float:
        """A fault. Returns how many seconds to wait before the next attempt.

        ``kind``: what sort of cause it is, by default the fault's class; the first of each sort is logged.
        """
        self._fault = fault
        cause = kind or type(fault).__name__
        if self._state is BackendState.RECONNECTING and cause not in self._causes:
            self._log.warning("%s: still %s (%s)", self._name, self._state.value, why)
        self._causes.add(cause)
        self._enter(BackendState.RECONNECTING, logging.WARNING, why)
        return self._backoff.next_delay()

    def idle(self) -> None:
        """Nothing is held on the server any more."""
        self._backoff.reset()
        self._causes.clear()
        self._enter(BackendState.IDLE, logging.DEBUG, "")

    def closed(self) -> None:
        """The backend was closed by its owner."""
        self._enter(BackendState.CLOSED, logging.DEBUG, "")

    def _connected(self, state: BackendState, level: int, why: str) -> None:
        self._backoff.reset()
        self._causes.clear()
        self._fault = None
        if self._state is BackendState.RECONNECTING:
            self._reconnects += 1
        self._enter(state, level, why)

    def _enter(self, state: BackendState, level: int, why: str) -> None:
        if state is self._state or self._state is BackendState.CLOSED:
            return
        self._state = state
        self._log.log(level, "%s: %s%s", self._name, state.value, f" ({why})" if why else "")
        self._observer(BackendEvent(self._name, state, why))
