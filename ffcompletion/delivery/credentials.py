"""A password that is asked for whenever a connection is made, so that rotated ones and short-lived tokens work."""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from ffcompletion.contract.errors import Transport, Unavailable, Validation

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Password", "ask_password", "check_password", "check_url"]

Password: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""The password itself, or what is called for it at each connect: a coroutine function, or a plain one, which runs in a
thread because it may well ask a vault over the network."""

_Outcome: TypeAlias = tuple[object, BaseException | None]

_AUTHORITY: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*")


def check_url(url: str) -> None:
    """Raises ``Validation`` for what is no text, and where part of a password may be taken for a path or an
    option, and shown in messages.
    """
    authority = _AUTHORITY.match(url)
    try:
        url.encode()
        if authority is not None:
            unquote_to_bytes(url).decode()
    except UnicodeError:
        # Its own text quotes what it could not read.
        raise Validation("url", "it holds bytes that are no UTF-8") from None
    if authority is not None and "@" in url[authority.end() :]:
        raise Validation("url", "an @ after a /, ? or #: percent-encode the password, as in p%2Fw or p%3Fw (@ is %40)")


def check_password(password: object) -> None:
    """Raises ``Validation`` for what is neither a string nor callable."""
    if not (password is None or isinstance(password, str) or callable(password)):
        raise Validation("password", f"a string or a callable is needed, not {type(password).__name__}")


async def ask_password(password: Password, shown: str) -> str:
    """The password now. ``shown``: where it is for, in errors.

    Raises ``Transport`` with the caller's own exception as its cause: like any fault of a connection it may pass.
    """
    if isinstance(password, str):
        return password
    # Not at once: with asyncio it is half of what importing this package would take.
    from ffcompletion.foreign.awaiting import called  # noqa: PLC0415
    from ffcompletion.foreign.calling import name_of  # noqa: PLC0415

    try:
        answer = await called("the password", partial(_answer, password))
    except Exception as exc:
        # Its text is somebody else's and may quote what it was working on.
        raised = exc.__cause__ if isinstance(exc, Unavailable) and exc.__cause__ is not None else exc
        raise Transport(shown, f"the callable given as password raised {name_of(raised)}") from exc
    if isinstance(answer, str):
        return answer
    raise Transport(shown, f"the callable given as password returned {name_of(answer)}, not str")


async def _answer(function: Callable[[], object]) -> object:
    import asyncio  # noqa: PLC0415  # half of what importing this package would take

    answer = function() if _is_coroutine_function(function) else await _in_a_thread(function)
    if not inspect.isawaitable(answer):
        return answer
    # In a task of its own: the one that it may cancel is that of the reader, which never comes back by itself.
    text, error = await asyncio.create_task(_awaited(answer), name="ffcompletion-password")
    if error is not None:
        raise error
    return text


async def _awaited(answer: Awaitable[object]) -> _Outcome:
    import asyncio  # noqa: PLC0415  # the same

    try:
        return await answer, None
    except asyncio.CancelledError:
        raise
    except BaseException as exc:  # noqa: BLE001  # out of a task, some of them end the loop
        return None, exc


def _is_coroutine_function(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # an object with an async __call__


# Calls under way, by process and function, which each of them holds.
_under_way: Final[dict[tuple[int, int], Future[_Outcome]]] = {}
_looking: Final = threading.Lock()


async def _in_a_thread(function: Callable[[], object]) -> object:
    """What it answers. One that never does costs one thread of its own, however often it is asked for: those of the
    loop's executor are everybody's, and the program waits for them at its end.
    """
    import asyncio  # noqa: PLC0415  # half of what importing this package would take

    while True:
        future, mine = _begun(function)
        answer, error = await asyncio.wrap_future(future)
        if error is not None:
            raise error
        if mine or not inspect.isawaitable(answer):
            return answer
        # It can be awaited once, by who began.


def _begun(function: Callable[[], object]) -> tuple[Future[_Outcome], bool]:
    """The call under way, and whether it was begun here."""
    from concurrent.futures import Future  # noqa: PLC0415  # not at once, either
    from contextvars import copy_context  # noqa: PLC0415

    key, context = (os.getpid(), id(function)), copy_context()

    def call() -> None:
        outcome: _Outcome
        try:
            outcome = context.run(function), None
        except BaseException as exc:  # noqa: BLE001  # whoever waits is told; a future cannot hold a StopIteration
            outcome = None, RuntimeError("StopIteration") if isinstance(exc, StopIteration) else exc
        with _looking:
            _under_way.pop(key, None)
        future.set_result(outcome)

    with _looking:
        found = _under_way.get(key)
        if found is not None:
            return found, False
        future = _under_way[key] = Future[_Outcome]()
        # Nobody who gives up waiting cancels it for the others.
        future.set_running_or_notify_cancel()
    try:
        threading.Thread(target=call, name="ffcompletion-password", daemon=True).start()
    except BaseException:
        with _looking:
            _under_way.pop(key, None)
        future.set_result((None, RuntimeError("no thread can be started")))
        raise
    return future, True
