"""A password that is asked for whenever a connection is made, so that rotated ones and short-lived tokens work."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from ffcompletion.contract.errors import Transport, Validation

__all__ = ["Password", "ask_password", "check_password", "check_url"]

Password: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""The password itself, or what is called for it at each connect: a coroutine function, or a plain one, which runs in a
thread because it may well ask a vault over the network."""


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
    try:
        answer = await _answer(password)
    except Exception as exc:
        # Its text is somebody else's and may quote what it was working on.
        raise Transport(shown, f"the callable given as password raised {type(exc).__name__}") from exc
    if isinstance(answer, str):
        return answer
    raise Transport(shown, f"the callable given as password returned {type(answer).__name__}, not str")


async def _answer(function: Callable[[], object]) -> object:
    import asyncio  # noqa: PLC0415  # half of what importing this package would take

    answer = function() if _is_coroutine_function(function) else await asyncio.to_thread(function)
    return await answer if inspect.isawaitable(answer) else answer


def _is_coroutine_function(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # an object with an async __call__
