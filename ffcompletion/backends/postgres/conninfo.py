"""What a libpq connection string or URL names; what is wrong with it is told without a word of what may be secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from ffcompletion.contract.errors import Validation
from ffcompletion.delivery.credentials import check_url

__all__ = ["hosts", "parsed", "place"]

# What libpq takes for a URL, and who and where in it.
_URI: Final = re.compile(r"postgres(?:ql)?://([^/?#]*)")
_CAPITALS: Final = re.compile(r"(?!postgres(?:ql)?:)(?i:postgres(?:ql)?://)")

# What libpq says of a parameter that is none of its own, and what may hold an unencoded `&` or blank, after which comes
# what libpq takes for another parameter.
_UNKNOWN: Final = re.compile(r'invalid (?:URI query parameter:|connection option) "([A-Za-z_][A-Za-z0-9_]{0,39})"')
_SECRET: Final = re.compile(r"password|secret|_key", re.IGNORECASE)

# A URL, or a user and password, where a name belongs, by which it would be shown. Sockets may have an @ in their paths, and
# begin with one.
_URL: Final = re.compile(r"://")
_PASTED: Final = {"host": re.compile(r"://|(?:^|,)[^,/@][^,/]*@"), "dbname": _URL, "service": _URL}
_ENVIRONMENT: Final = {"host": "PGHOST", "dbname": "PGDATABASE", "service": "PGSERVICE"}
_SECONDS: Final = re.compile(r"\s*-?\d+(?:\.\d*)?\s*")

# Parameters that take one of a few words. libpq looks at them when it connects, which would be tried again and again.
_WORDS: Final = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "sslcertmode": ("disable", "allow", "require"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}


def parsed(conninfo: str) -> Mapping[str, str | int | None]:
    """What a conninfo or URL names. Raises ``Validation``, which quotes nothing of it."""
    check_url(conninfo)
    given: Mapping[str, str | int | None] | None = None
    fault = ""
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.Error as exc:
        # The driver's text quotes the conninfo, password included: neither text, cause nor context may go on.
        fault = _fault(conninfo, str(exc))
    if given is None:
        raise Validation("url", fault)
    uri = _URI.match(conninfo)
    if uri is not None and uri[1].count("@") > 1:
        # libpq ends the password at the first one; the rest of it would be shown as the host's name.
        raise Validation("url", "more than one @: percent-encode the password, in which @ is %40")
    for name in ("host", "dbname", "service"):
        if _PASTED[name].search(str(given.get(name) or os.environ.get(_ENVIRONMENT[name]) or "")):
            raise Validation("url", f"{name} holds a URL, or a user: write the URL alone, or key=value pairs alone")
    if not all(port.isdigit() and int(port) < 65_536 for port in str(given.get("port") or "5432").split(",")):
        raise Validation("url", "a port must be a number from 0 to 65535")
    if not _SECONDS.fullmatch(str(given.get("connect_timeout") or "0")):
        raise Validation("url", "connect_timeout must be a number of seconds")
    for name, words in _WORDS.items():
        if (given.get(name) or words[0]) not in words:
            raise Validation("url", f"{name} must be one of {', '.join(words)}")
    return given


def _fault(conninfo: str, said: str) -> str:
    """What is wrong with it: a parameter that libpq does not know is named, unless it may be a piece of a password."""
    if _CAPITALS.match(conninfo) is not None:
        return "libpq knows its scheme in lower case only: postgresql://"
    if (found := _UNKNOWN.match(said)) is not None:
        near = get_close_matches(found[1], (option.keyword.decode() for option in Conninfo.get_defaults()), 1, 0.8)
        if near:
            return f"unknown parameter {found[1]!r}; did you mean {near[0]}?"
        if _SECRET.search(conninfo) is None:
            return f"unknown parameter {found[1]!r}; libpq's are known, among them sslmode, connect_timeout and options"
    return "not a libpq connection string; use postgresql://user@host:5432/database or key=value pairs"


def place(given: Mapping[str, str | int | None]) -> str:
    """Host and port, for people; from the environment where the conninfo names none, as libpq has it."""
    host = given.get("host") or given.get("hostaddr") or given.get("service")
    if host is None:
        host = next((os.environ[name] for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE") if os.environ.get(name)), None)
    return f"{host or 'local socket'}:{given.get('port') or os.environ.get('PGPORT') or 5432}"


def hosts(given: Mapping[str, str | int | None]) -> str:
    """The hosts, separated by commas, wherever libpq takes them from; "" for its local socket.

    Where a service names them, only if the environment names that.
    """
    named = given.get("host") or given.get("hostaddr")
    if named is None and "service" not in given:
        found = {each.keyword: each.val for each in Conninfo.get_defaults()}
        named = (found.get(b"host") or found.get(b"hostaddr") or b"").decode(errors="replace")
    return str(named or "")
