"""``contained``: how whatever is not ours is called. For what has to be awaited, ``awaiting.called``."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import CoroutineType
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack, cast, final

from ffcompletion.foreign.apart import Apart
from ffcompletion.foreign.keyboard import from_the_keyboard
from ffcompletion.foreign.logs import Logger, RateLog

__all__ = ["FAILED", "Culprit", "Failed", "contained", "discard", "name_of"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class Failed(Enum):
    """What ``contained`` answers for a call that raised."""

    FAILED = "failed"


FAILED: Final = Failed.FAILED


# As `type` itself has it: a metaclass may have put anything in its place.
_NAME: Final = type.__dict__["__qualname__"]


def name_of(thing: object) -> str:
    """The name of its class, for a log line. Runs nothing of the object's own."""
    # Not `thing.__class__`, which may be a property.
    return cast("str", _NAME.__get__(type(thing)))


@final
class Culprit:
    """Somebody's code: what the log calls it, where it runs, and how often it failed. ``what``: never a secret."""

    __slots__ = ("_rate", "_what", "apart", "failures")

    def __init__(self, what: str, log: Logger) -> None:
        self._what = what
        self._rate = RateLog(log)
        self.apart: Final = Apart()
        """The context in which it was brought."""
        self.failures: int = 0
        """Calls that raised, or answered what is no answer."""

    def failed(self, how: str) -> None:
        """Count one failure, and tell it if it is time."""
        self.failures += 1
        self._rate.warning(f"{self._what} {how}")


def contained(
    culprit: Culprit, function: Callable[[Unpack[_Args]], _T], /, *args: *_Args
) -> _T | Literal[Failed.FAILED]:
    """Call it, in the context in which it was brought. ``FAILED``, and counted, whatever it raises.

    That is more than ``Exception``: a ``CancelledError`` or ``SystemExit`` out of a plain call is no cancellation of
    ours and no exit of the program's, and would end the task that made the call. The keyboard's interrupt alone goes on.
    """
    try:
        return culprit.apart.run(function, *args)
    except BaseException as exc:  # somebody else's code
        if from_the_keyboard(exc):
            raise
        culprit.failed(f"raised {name_of(exc)}")
        return FAILED


def discard(answer: object) -> bool:
    """An answer that is of no use. True for a coroutine: it is closed, or Python warns as if we had forgotten it."""
    if type(answer) is not CoroutineType:
        return False
    answer.close()
    return True
