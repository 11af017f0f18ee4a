"""``connect``: from a URL to a backend. Imports the driver that the URL asks for, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, overload

from typing_extensions import Unpack

from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.extras import missing
from ffcompletion.contract.protocols import Backend
from ffcompletion.options import ConnectOptions, MemoryOptions

if TYPE_CHECKING:
    from ffcompletion.backends.memory import MemoryBackend

__all__ = ["connect", "is_url", "scheme_of"]

_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_CONNINFO: Final = re.compile(r"\s*[a-z_]+\s*=")
_VALKEY: Final = frozenset({"valkey", "valkeys", "redis", "rediss"})
_POSTGRES: Final = frozenset({"postgresql", "postgres"})


def is_url(text: str) -> bool:
    """Whether it is a URL or a libpq connection string, by how it begins; anything else is a file's name."""
    return bool(_SCHEME.match(text) or _CONNINFO.match(text))


def scheme_of(url: str) -> str:
    """``memory``, ``valkey`` or ``postgres``. Raises ``Validation``, which never quotes what may hold a password."""
    found = _SCHEME.match(url)
    if found is None:
        if _CONNINFO.match(url):
            return "postgres"
        raise Validation("url", "no scheme; use valkey://host:6379, postgresql://user@host/database or memory://")
    scheme = found[1].lower()
    if scheme == "memory":
        return "memory"
    if scheme in _VALKEY:
        return "valkey"
    if scheme in _POSTGRES:
        return "postgres"
    raise Validation("url", f"unknown scheme {scheme!r}; known are valkey, valkeys, redis, rediss, postgresql, memory")


@overload
def connect(url: Literal["memory://"], **options: Unpack[MemoryOptions]) -> MemoryBackend: ...
@overload
def connect(url: str, **options: Unpack[ConnectOptions]) -> Backend: ...
def connect(url: str, **options: Unpack[ConnectOptions]) -> Backend:
    """A backend for this URL. Does no I/O: the first subscribe call connects, and raises if it cannot.

    - ``memory://``: within this process; a type checker knows that it has ``emit``.
    - ``valkey://[user[:password]@]host[:port][,host…][/database][?cluster=true]``, ``valkeys://`` with TLS; ``redis://``
      and ``rediss://`` are aliases.
    - ``postgresql://…``, or any libpq connection string such as ``host=… dbname=…``.

    ``options`` are the keyword arguments of the backend's class. Raises ``Validation`` for a malformed URL or an
    option that the backend does not have, ``Unavailable`` if its driver is not installed.
    """
    kind = scheme_of(url)
    if kind == "memory":
        if url != "memory://":
            raise Validation("url", "memory:// takes nothing after it; each one is a backend of its own")
        from ffcompletion.backends.memory import MemoryBackend  # noqa: PLC0415  # loads asyncio

        return _made(kind, MemoryBackend, options)
    try:
        if kind == "valkey":
            from ffcompletion.backends.valkey import ValkeyBackend  # noqa: PLC0415  # loads the driver

            return _made(kind, partial(ValkeyBackend, url), options)
        from ffcompletion.backends.postgres import PostgresBackend  # noqa: PLC0415  # loads the driver

        return _made(kind, partial(PostgresBackend, url), options)
    except ImportError as exc:
        raise Unavailable(f"the {kind} backend", missing(exc, kind)) from exc


def _made(kind: str, make: Callable[..., Backend], options: ConnectOptions) -> Backend:
    from inspect import signature  # noqa: PLC0415  # costs a sixth of importing this package

    known = signature(make).parameters
    for name in options:
        if name not in known:
            raise Validation("option", f"the {kind} backend has no option {name!r}")
    return make(**options)
