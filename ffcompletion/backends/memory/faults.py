"""Faults on demand: for the unit tests of programs that have to bear them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from ffcompletion.contract.errors import EngineError, Transport, Validation
from ffcompletion.contract.numbers import check_seconds

__all__ = ["Faults"]


@final
class Faults:
    """What a ``MemoryBackend`` suffers from, as ``backend.faults``. On the loop's thread; each call holds until undone."""

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._delay_s = 0.0
        self._error: EngineError | None = None
        self.connected: bool = True
        """Whether what is emitted reaches the streams."""

    def disconnect(self) -> None:
        """The connection is lost: streams stay open and get nothing, subscribing and questions raise ``Transport``.

        What is emitted meanwhile is kept in the log, as a server would.
        """
        self.connected = False
        self._changed(False)

    def reconnect(self) -> None:
        """It is back: streams get what they missed, as far as the log keeps it."""
        self.connected = True
        self._changed(True)

    def slow(self, seconds: float, /) -> None:
        """Subscribing and questions take so long; beyond ``setup_timeout`` they raise ``Transport``. 0 ends it."""
        self._delay_s = check_seconds("faults", seconds)

    def fail(self, error: EngineError | None = None, /) -> None:
        """Subscribing and questions raise this; ``Transport`` if it is not said what. Open streams are not concerned.

        Raises ``Validation`` for what is no error of ours: no backend raises another.
        """
        self._error = _of_ours(Transport("memory", "it does not answer, as was asked for") if error is None else error)

    def recover(self) -> None:
        """Everything works again."""
        self._delay_s, self._error = 0.0, None
        if not self.connected:
            self.reconnect()

    async def answer(self, within_s: float) -> None:
        """Around what a server would be asked. Raises what it suffers from."""
        if self._delay_s:
            try:
                async with asyncio.timeout(within_s):
                    await asyncio.sleep(self._delay_s)
            except TimeoutError as exc:
                raise Transport("memory", f"no answer within {within_s:g} s, as was asked for") from exc
        if self._error is not None:
            # Each caller has its own traceback.
            raise self._error.with_traceback(None)
        if not self.connected:
            raise Transport("memory", "the connection is lost, as was asked for")


def _of_ours(error: object) -> EngineError:
    # Callers may be untyped.
    if isinstance(error, EngineError):
        return error
    raise Validation("faults", f"a {type(error).__name__} is no EngineError, and nothing else comes out of a backend")
