"""Log lines that cannot hurt: a filter or handler of the application's that raises ends nothing of ours."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final, final

from ffcompletion.foreign.keyboard import from_the_keyboard

__all__ = ["Logger", "RateLog", "logger"]

# The frames of this module between the line that logs and `logging` itself.
_OURS: Final = 3


@final
class Logger:
    """One of ``logging``'s loggers, of which nothing is ever raised. A line that a handler refuses goes to stderr."""

    __slots__ = ("_log", "refused")

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.refused: int = 0
        """Lines for which a filter or handler raised."""

    def debug(self, text: str, /, *args: object) -> None:
        """For who looks for a fault."""
        self._say(logging.DEBUG, text, args)

    def info(self, text: str, /, *args: object) -> None:
        """A change of state, as it should be."""
        self._say(logging.INFO, text, args)

    def warning(self, text: str, /, *args: object) -> None:
        """Something that somebody should look at."""
        self._say(logging.WARNING, text, args)

    def error(self, text: str, /, *args: object) -> None:
        """Something that does not mend itself."""
        self._say(logging.ERROR, text, args)

    def exception(self, text: str, /, *args: object) -> None:
        """The same, with the traceback of the exception at hand."""
        self._say(logging.ERROR, text, args, trace=True)

    def log(self, level: int, text: str, /, *args: object) -> None:
        """At a level that is chosen by the caller."""
        self._say(level, text, args)

    def _say(self, level: int, text: str, args: tuple[object, ...], *, trace: bool = False) -> None:
        try:
            if not self._log.isEnabledFor(level):
                return
            # Made here, where the task is known, and told in none: handlers may cancel what they find.
            file, line, function, _ = self._log.findCaller(stacklevel=_OURS)
            found = sys.exc_info() if trace else None
            record = self._log.makeRecord(self._log.name, level, file, line, text, args, found, function)
            from ffcompletion.foreign.apart import in_no_task  # noqa: PLC0415  # takes asyncio with it

            in_no_task(self._log.handle, record)
        except BaseException as exc:  # the application's filter or handler
            if from_the_keyboard(exc):
                raise
            self.refused += 1
            _say_at_last(logging.LogRecord(self._log.name, level, "", 0, text, args, None))


def _say_at_last(record: logging.LogRecord) -> None:
    try:
        if logging.lastResort is not None:
            logging.lastResort.handle(record)
    except BaseException as exc:  # a daemon's stderr may be closed, and then there is nowhere to say it
        if from_the_keyboard(exc):
            raise


_loggers: Final[dict[str, Logger]] = {}


def logger(name: str) -> Logger:
    """The logger of this name; the same one each time."""
    found = _loggers.get(name)
    if found is None:
        found = _loggers[name] = Logger(logging.getLogger(name))
    return found


@final
class RateLog:
    """Logs the first of a kind of event at once, then at most one line per interval with the number since."""

    __slots__ = ("_clock", "_interval_s", "_last", "_log", "_since")

    def __init__(self, log: Logger, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._last: float | None = None
        self._since = 0

    def warning(self, what: str) -> None:
        """Count one event, described by ``what`` (never a secret), and log if it is time."""
        if self._due():
            self._log.warning("%s (%d since the last line)", what, self._taken())

    def error(self, what: str) -> None:
        """The same, of a fault in somebody's code."""
        if self._due():
            self._log.error("%s (%d since the last line)", what, self._taken())

    def exception(self, what: str) -> None:
        """The same, with the traceback of the exception at hand."""
        if self._due():
            self._log.exception("%s (%d since the last line)", what, self._taken())

    def _due(self) -> bool:
        self._since += 1
        now = self._clock()
        if self._last is not None and now - self._last < self._interval_s:
            return False
        self._last = now
        return True

    def _taken(self) -> int:
        taken, self._since = self._since, 0
        return taken
