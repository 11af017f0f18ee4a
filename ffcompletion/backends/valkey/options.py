"""Where a Valkey is and how to get in: from a URL, from keyword options, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec
from typing_extensions import override

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.numbers import check_count
from ffcompletion.delivery.credentials import Password, check_password, check_url

__all__ = ["Options", "Settings"]

_PLAIN: Final = frozenset({"valkey", "redis"})
_TLS: Final = frozenset({"valkeys", "rediss"})
_PORT: Final = 6379
# Options that others have, and what looks like one.
_CREDENTIALS: Final = frozenset({"password", "passwd", "pass", "pwd", "secret", "token", "auth", "username", "user"})
_SECRET: Final = re.compile(r"pass|pwd|secret|token|auth", re.IGNORECASE)
_QUERY: Final = frozenset({"cluster", "tls_ca", "tls_cert", "tls_key"})


@final
class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the backend is to work, beside where its server is."""

    options: Options
    lanes: Sequence[str] = ()
    reconcile_interval_s: float = 15.0
    """0: never."""
    clock_skew_ms: int = 5_000
    buffer_size: int = 10_000


@final
class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Checked and complete. Its repr shows no secret."""

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    cluster: bool = False
    database: int | None = None
    username: str | None = None
    password: Password | None = None
    tls_ca: bytes | None = None
    tls_cert: bytes | None = None
    tls_key: bytes | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: Password | None = None,
        database: int | None = None,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
    ) -> Options:
        """Parse ``valkey://[user[:password]@]host[:port][,host[:port]…][/database][?option=value…]``.

        Keyword arguments take precedence. Raises ``Validation``; no message quotes a password.
        """
        check_url(url)
        check_password(password)
        parts = None
        # Not raised inside: the error that would be its context quotes what may be a password.
        with suppress(ValueError):
            parts = urlsplit(url)
        if parts is None:
            raise Validation("url", "it cannot be parsed; use valkey://user:password@host:6379/0")
        if parts.scheme not in _PLAIN | _TLS:
            raise Validation("url", "the scheme must be valkey, valkeys, redis or rediss")
        userinfo, _, netloc = parts.netloc.rpartition("@")
        user, _, secret = userinfo.partition(":")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(query.keys() - _QUERY):
            raise Validation("url", f"unknown option{_named(unknown)}; known are {', '.join(sorted(_QUERY))}")
        tls, cluster = parts.scheme in _TLS, _flag(query.get("cluster", "false"))
        files = {name: given or query.get(name) for name, given in
                 (("tls_ca", tls_ca), ("tls_cert", tls_cert), ("tls_key", tls_key))}  # fmt: skip
        if not tls and any(files.values()):
            raise Validation("url", "TLS files are given, but the scheme is not valkeys or rediss")
        if bool(files["tls_cert"]) != bool(files["tls_key"]):
            raise Validation("url", "a client certificate needs both tls_cert and tls_key")
        username, password = username or unquote(user) or None, password or unquote(secret) or None
        if username is not None and password is None:
            raise Validation("url", "a user needs a password; use valkey://user:password@host")
        number = _database(parts) if database is None else check_count("database", database, 0)
        if cluster and number:
            raise Validation("url", "a cluster has database 0 only; leave the number out")
        return cls(
            hosts=tuple(_host(item) for item in netloc.split(",")),
            tls=tls,
            cluster=cluster,
            database=number,
            username=username,
            password=password,
            **{name: _read(name, path) for name, path in files.items()},
        )

    @property
    def shown(self) -> str:
        """For messages and reprs: no user, no password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"valkey{'s' if self.tls else ''} at {hosts}" + (f"/{self.database}" if self.database else "")

    @override
    def __repr__(self) -> str:
        return f"<Options {self.shown}>"


def _named(unknown: Sequence[str]) -> str:
    """The option to name: none where a password is among them, unencoded, which may go on as the next option's name."""
    said = [name for name in unknown if name.lower() in _CREDENTIALS]
    if said:
        return f" {said[0]!r}"
    return "" if any(_SECRET.search(name) for name in unknown) else f" {unknown[0]!r}"


def _host(item: str) -> tuple[str, int]:
    found: tuple[str | None, int | None] | None = None
    with suppress(ValueError):
        parts = urlsplit(f"//{item}")
        found = parts.hostname, parts.port
    if found is None:
        raise Validation("url", "a port must be a number from 0 to 65535")
    host, port = found
    if not host:
        raise Validation("url", "a host is missing; use valkey://host:6379")
    return host, _PORT if port is None else port


def _database(parts: SplitResult) -> int | None:
    text = parts.path.strip("/")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Validation("url", "what follows the host must be a database number, as in valkey://host:6379/0")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise Validation("url", "cluster must be true or false")


def _read(name: str, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise Validation(name, f"cannot read {path}: {exc.strerror}") from exc
    if not data.strip():
        raise Validation(name, f"{path} is empty; a PEM file is needed")
    return data
