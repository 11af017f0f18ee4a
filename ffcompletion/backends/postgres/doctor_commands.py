"""Commands that somebody pastes into a shell: names as SQL and as the shell want them, and no password. Pure."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ffcompletion.backends.postgres.errors import first_line, is_refusal
from ffcompletion.contract.diagnosis import Finding, Verdict

__all__ = ["CONNECT_S", "Commands", "no_room", "not_connected", "quoted"]

CONNECT_S: Final = 3

_SECRETS: Final = ("password", "sslpassword")


def quoted(*names: str) -> str:
    """As SQL has it."""
    return sql.Identifier(*names).as_string()


@final
class Commands:
    """What can be run about one server, given as libpq would be."""

    def __init__(self, url: str, given: Mapping[str, str | int | None], schema: str | None = None) -> None:
        self._given = given
        held = {name: value for name, value in given.items() if value is not None}
        bare = {name: value for name, value in held.items() if name not in _SECRETS}
        # libpq takes it from there too; whoever pastes fills it in.
        self._before = "PGPASSWORD='<password>' " if "password" in held else ""
        self._url = shlex.quote(url if len(bare) == len(held) else make_conninfo("", **bare))
        self._schema = "" if schema is None else f" --schema {shlex.quote(schema)}"

    @property
    def user(self) -> str:
        return str(self._given.get("user") or "<user>")

    @property
    def database(self) -> str:
        return str(self._given.get("dbname") or self.user)

    @property
    def service(self) -> str | None:
        """Where the URL names no host, but a service that does."""
        named = None if self._given.get("host") else self._given.get("service")
        return None if named is None else str(named)

    @property
    def ready(self) -> str:
        return f"pg_isready{self._where('localhost')}"

    def ours(self, command: str, options: str = "", schema: str | None = None) -> str:
        """One of this package's, on this server."""
        said = self._schema if schema is None else f" --schema {shlex.quote(schema)}"
        return f"{self._before}ffcompletion {command} {self._url}{options}{said}"

    def psql(self, statement: str) -> str:
        """A statement by the superuser, in a database that is always there."""
        return f"psql{self._where()} -U postgres -d postgres -c {shlex.quote(statement)}"

    def _where(self, otherwise: str = "") -> str:
        host = str(self._given.get("host") or self._given.get("hostaddr") or otherwise).split(",")[0]
        port = str(self._given.get("port") or 5432).split(",")[0]
        return (f" -h {shlex.quote(host)}" if host else "") + f" -p {port}"


def not_connected(exc: BaseException, shown: str, commands: Commands) -> Finding:
    """Why there is no connection. Texts in a language that is not English are told by what libpq knows, less finely."""
    text = first_line(exc)
    if not text and isinstance(exc, TimeoutError):
        text = f"no answer within {CONNECT_S} s"
    return Finding("connection", Verdict.FAILURE, f"{shown}: {text}", _remedy(exc, text, commands))


def no_room(exc: BaseException, commands: Commands) -> Finding | None:
    """A second and a third connection are refused where the first was not. None where that is not what is said."""
    text = first_line(exc)
    remedy = _refused(text, commands)
    if remedy is None:
        return None
    return Finding("echo", Verdict.FAILURE, f"one connection is not enough, and there are no more: {text}", remedy)


def _remedy(exc: BaseException, text: str, commands: Commands) -> str:
    if (remedy := _refused(text, commands)) is not None:
        return remedy
    if isinstance(exc, TimeoutError) or "timeout" in text:
        return "something accepts the connection and does not answer: a hanging server, or a firewall that drops"
    if "SSL" in text or "certificate" in text:
        return "look at sslmode, sslrootcert, sslcert and sslkey in the URL"
    if isinstance(exc, psycopg.Error) and is_refusal(exc):
        return f"the server answers, and refuses: is the password right? {_new_password(commands)}"
    if commands.service is not None:
        return (
            f"is the service {commands.service!r} in ~/.pg_service.conf, or in the file that PGSERVICEFILE names, and is its"
            " server listening?"
        )
    return f"is a server listening there, and does a firewall let you? {commands.ready}"


def _refused(text: str, commands: Commands) -> str | None:
    for pattern, remedy in _REFUSALS:
        if (found := pattern.search(text)) is not None:
            return remedy(commands, found)
    return None


def _new_password(commands: Commands) -> str:
    return commands.psql(f"\\password {quoted(commands.user)}")


def _admit(_: Commands, found: re.Match[str]) -> str:
    """A line for the file, on the server's own machine."""
    host, user, database = found["host"], found["user"], found["database"]
    kind, address = "local", ""
    with suppress(ValueError):
        parsed = ipaddress.ip_address(host)
        kind, address = "host", f" {parsed}/{parsed.max_prefixlen}"
    line = shlex.quote(f"{kind} {quoted(database)} {quoted(user)}{address} scram-sha-256")
    file = "$(psql -U postgres -Atc 'SHOW hba_file')"
    return f"on the server: echo {line} >> \"{file}\" && psql -U postgres -c 'SELECT pg_reload_conf()'"


_Remedy = Callable[[Commands, re.Match[str]], str]

# What the server says, in the language of most; what to do. The first that is found counts.
_REFUSALS: Final[tuple[tuple[re.Pattern[str], _Remedy], ...]] = (
    (
        re.compile("password authentication failed"),
        lambda c, _: f"wrong password for {c.user}, or one that has expired, or there is no such role; set another: {_new_password(c)}",
    ),
    (
        re.compile("no password supplied"),
        lambda _, __: "write the password into the URL, ~/.pgpass or PGPASSWORD",
    ),
    (
        re.compile(r'no pg_hba\.conf entry for host "(?P<host>.*)", user "(?P<user>.*)", database "(?P<database>.*)"'),
        _admit,
    ),
    (
        re.compile(r"pg_hba\.conf"),
        lambda _, __: "a line of the server's pg_hba.conf refuses it: remove it, or put one that admits before it; then: psql -U postgres -c 'SELECT pg_reload_conf()'",
    ),
    (
        re.compile('role "(.*)" does not exist'),
        lambda c, found: c.psql(f"CREATE ROLE {quoted(found[1])} LOGIN") + "  # or another user in the URL",
    ),
    (
        re.compile('role "(.*)" is not permitted to log in'),
        lambda c, found: c.psql(f"ALTER ROLE {quoted(found[1])} LOGIN"),
    ),
    (
        re.compile('database "(.*)" does not exist'),
        lambda c, found: c.psql(f"CREATE DATABASE {quoted(found[1])}") + "  # or another name in the URL",
    ),
    (
        re.compile('permission denied for database "(.*)"'),
        lambda c, found: c.psql(f"GRANT CONNECT ON DATABASE {quoted(found[1])} TO {quoted(c.user)}"),
    ),
    (
        re.compile('database "(.*)" is not currently accepting connections'),
        lambda c, found: c.psql(f"ALTER DATABASE {quoted(found[1])} ALLOW_CONNECTIONS true"),
    ),
    (
        re.compile('too many connections for (role|database) "(.*)"'),
        lambda c, found: "close sessions, or: " + c.psql(f"ALTER {found[1].upper()} {quoted(found[2])} CONNECTION LIMIT -1"),
    ),
    (
        re.compile("too many clients|remaining connection slots"),
        lambda c, _: f"close sessions, or: {c.psql('ALTER SYSTEM SET max_connections = 200')}, then restart the server",
    ),
    (
        re.compile("max_client_conn|no more connections allowed"),
        lambda _, __: "the pooler is full: raise max_client_conn in pgbouncer.ini, then RELOAD on its console; or close sessions",
    ),
    (
        re.compile("no such (database|user)"),
        lambda _, found: f"the pooler knows no such {found[1]}: add it to pgbouncer.ini or its auth_file, then RELOAD on its console",
    ),
    (
        re.compile("query_wait_timeout"),
        lambda _, __: "every session of the pooler is busy: raise default_pool_size in pgbouncer.ini, then RELOAD on its console; or end what holds them",
    ),
    (
        re.compile("the database system is"),
        lambda c, _: f"it is starting, stopping or recovering: wait until it accepts; {c.ready}",
    ),
)  # fmt: skip
