"""An application's observer, which may raise and answer what it likes."""

from __future__ import annotations

from collections.abc import Callable

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.stats import BackendEvent, Observer
from ffcompletion.foreign.calling import Culprit, contained, discard
from ffcompletion.foreign.logs import Logger

__all__ = ["contained_observer"]


def contained_observer(observer: Observer | None, log: Logger) -> Callable[[BackendEvent], None]:
    """The observer, to be told without a thought of what it does; None is told nothing.

    Raises ``Validation`` for what cannot be called.
    """
    if observer is None:
        return _nobody
    if not callable(observer):
        raise Validation("observer", f"a {type(observer).__name__} cannot be called")
    # Callers may be untyped: an `async def` is a mistake that is worth a line.
    function: Callable[[BackendEvent], object] = observer

    culprit = Culprit("the observer", log)

    def tell(event: BackendEvent) -> None:
        answer: object = contained(culprit, function, event)
        if discard(answer):
            culprit.failed("answered a coroutine; it has to be a plain function, and nothing was awaited")

    return tell


def _nobody(_: BackendEvent) -> None:
    return
