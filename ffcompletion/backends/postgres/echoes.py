"""Whether the listening connection still hears: an echo now and then, and what follows from its absence."""

from __future__ import annotations

from typing import Final, final

import psycopg

from ffcompletion.backends.postgres.session import QUEUE_FULL, Session
from ffcompletion.contract.stats import BackendState
from ffcompletion.delivery.connection_state import ConnectionState
from ffcompletion.delivery.heartbeat import Heartbeat

__all__ = ["ECHO_DEADLINE_S", "Echoes"]

ECHO_DEADLINE_S: Final = 1.5
_ECHO_EVERY_S: Final = 3.0
# So many echoes in a row let a polling reader trust its listener after all.
_ECHOES_TO_LEAVE_POLLING: Final = 2


@final
class Echoes:
    """Over all sessions of a run."""

    def __init__(self, connection: ConnectionState) -> None:
        self._connection = connection
        self._heartbeat = Heartbeat(0.0, interval_s=_ECHO_EVERY_S, deadline_s=ECHO_DEADLINE_S)
        self._while_polling = 0
        # How much had been heard when the last echo was sent.
        self._before = 0

    @property
    def next_at(self) -> float:
        """When to check again."""
        return self._heartbeat.next_at

    def restart(self, now: float) -> None:
        """A new session, of which the first echo has told."""
        self._while_polling = 0
        self._heartbeat.restart(now)

    async def check(self, session: Session, now: float) -> None:
        """Take the echoes that came, send one if it is time. Raises driver errors, also for one that is overdue.

        A connection on which anything has come meanwhile is not dead: in a flood the echo waits behind all of it.
        """
        for echo in session.inbox.take_echoes():
            self._received(echo, now)
        if self._heartbeat.expired(now):
            if self._connection.state is BackendState.LIVE and session.inbox.received == self._before:
                raise psycopg.OperationalError("the listener went silent: no echo")
            self.restart(now)
        nonce = self._heartbeat.due(now)
        if nonce is not None:
            self._before = session.inbox.received
            if session.in_recovery and await session.promoted():
                raise psycopg.OperationalError("the replica was promoted")
            if not await session.echo(nonce):
                if self._connection.state is BackendState.LIVE:
                    raise psycopg.OperationalError(QUEUE_FULL)
                self.restart(now)

    def _received(self, nonce: str, now: float) -> None:
        if not self._heartbeat.received(nonce, now) or self._connection.state is not BackendState.POLLING:
            return
        # The first echo was late, not lost. Through a pooler one may come by chance, but hardly two in a row.
        self._while_polling += 1
        if self._while_polling == _ECHOES_TO_LEAVE_POLLING:
            self._connection.live()
