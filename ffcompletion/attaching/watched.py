"""A connection that is not waited on for ever. A statement may take its time; but then somebody is at work on it, and
where a proxy or a server has gone mute in the middle, nobody is.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, Final, Self, final

import psycopg
from psycopg import Connection, waiting
from psycopg.abc import RV, PQGen
from typing_extensions import override

__all__ = ["Watched"]

# How often the driver wakes up to look, for an interrupt as well.
_LOOK_S: Final = 0.5
# Without an answer for so long, a second connection asks; and once more, before the statement is given up.
_ASK_AFTER_S: Final = 10.0
_ASK_AGAIN_S: Final = 5.0
_ANSWERS_WITHIN_S: Final = 8.0
_STATE: Final = "SELECT state FROM pg_catalog.pg_stat_activity WHERE pid = %s"


@final
class Watched(Connection[tuple[Any, ...]]):
    """Raises ``psycopg.OperationalError`` where no answer is to come: the server does not answer a second connection
    either, or it waits for us.
    """

    _direct: bool = False
    _where: str = ""

    @classmethod
    def to(cls, conninfo: str) -> Self:
        """One in autocommit, that prepares nothing."""
        conn = cls.connect(conninfo, autocommit=True, prepare_threshold=None, application_name="ffcompletion attach")
        conn._where = conninfo  # of the same class
        row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
        # A pooler answers with a process id of its own making.
        conn._direct = row is not None and row[0] == conn.info.backend_pid
        return conn

    @override
    def wait(self, gen: PQGen[RV], interval: float = _LOOK_S, timeout: float | None = None) -> RV:
        return waiting.wait(self._until_nobody_answers(gen), self.pgconn.socket, interval=interval, timeout=timeout)

    def _until_nobody_answers(self, gen: PQGen[RV]) -> PQGen[RV]:
        began = time.monotonic()
        ask_at, asked = began + _ASK_AFTER_S, 0
        try:
            wants = next(gen)
            while True:
                ready = yield wants
                now = time.monotonic()
                if ready:
                    ask_at, asked = now + _ASK_AFTER_S, 0
                elif now >= ask_at:
                    asked = 0 if self._at_work() else asked + 1
                    if asked > 1:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(
                            f"no answer for {time.monotonic() - began:.0f} s, and nobody is at work on one"
                        )
                    ask_at = time.monotonic() + (_ASK_AGAIN_S if asked else _ASK_AFTER_S)
                wants = gen.send(ready)
        except StopIteration as ended:
            answer: RV = ended.value
            return answer

    def _at_work(self) -> bool:
        """Whether the server answers another connection, and, where it can tell, says that it is at work for this one."""
        try:
            other = _Asking.connect(
                self._where, autocommit=True, prepare_threshold=None, connect_timeout=round(_ANSWERS_WITHIN_S)
            )
            with closing(other):
                row = other.execute(_STATE, (self.info.backend_pid,)).fetchone()
        except psycopg.Error as exc:
            # A server without a connection to spare is one that answers.
            return exc.sqlstate is not None
        return not self._direct if row is None else row[0] is None or not str(row[0]).startswith("idle")


@final
class _Asking(Connection[tuple[Any, ...]]):
    """One that is waited on for a moment only."""

    @override
    def wait(self, gen: PQGen[RV], interval: float = _LOOK_S, timeout: float | None = _ANSWERS_WITHIN_S) -> RV:
        return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=timeout)
