"""Every fault at every door, on both servers: our error, its true cause, within its time, and no secret anywhere.

One row for each fault, made once; one test for each door that the fault concerns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

import ffcompletion as ffc
from ffcompletion import embedded, producers, sync
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.cli.app import app
from ffcompletion.contract.checkpoint import Checkpoint
from tests.worlds import done
from tests.worlds.proxy import Proxy
from tests.worlds.servers import PASSWORD, Authority, ask, pgbouncer

SECRET = "sEcReT"
RIGHT, WRONG = PASSWORD, f"{SECRET}-wrong"
assert SECRET in RIGHT
ID = done().execution_id


class Where(msgspec.Struct, frozen=True):
    """Where a fault is to be met."""

    url: str
    patience: float = 8.0
    """Seconds within which it has to be known; what is known at once is told long before."""


def impatient(where: Where) -> Where:
    """Where nothing ever answers."""
    return msgspec.structs.replace(where, patience=0.7)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of a fault."""

    error: type[ffc.EngineError]
    text: str
    """The true cause: a pattern, of which each error's text has something."""
    server: str
    make: str
    """Which of the methods of ``Postgres`` or ``Valkey`` makes it."""
    within: float = 6.0
    not_at: frozenset[str] = frozenset()
    """Doors that it does not concern."""


# ── the doors ────────────────────────────────────────────────────────────────────────────────────────────────────


def _connect(where: Where) -> ffc.Backend:
    return ffc.connect(where.url, setup_timeout=where.patience)


async def _subscribe(where: Where, _: Path) -> None:
    async with _connect(where) as backend, ffc.subscribe(backend):
        pass


async def _filtered(where: Where, _: Path) -> None:
    wanted = ffc.ScannerFilter("a", ("key", "value"))
    async with _connect(where) as backend, ffc.subscribe(backend, wanted):
        pass


async def _from_a_cursor(where: Where, _: Path) -> None:
    at = ffc.StreamCursor.beginning()
    async with _connect(where) as backend, ffc.subscribe(backend, cursor=at):
        pass


async def _describe(where: Where, _: Path) -> None:
    async with _connect(where) as backend:
        await backend.describe_execution(ID)


async def _members(where: Where, _: Path) -> None:
    async with _connect(where) as backend:
        await backend.flow_members("a76a8496-6e9c-457a-8727-b5169796f3cd")


async def _wait(where: Where, _: Path) -> None:
    async with _connect(where) as backend:
        await ffc.wait_for_completion(backend, ID, timeout=2)


async def _checkpointed(where: Where, folder: Path) -> None:
    """The stream that is resumed is at fault, not the store."""
    async with _connect(where) as backend:
        async with ffc.checkpointed(backend, ffc.FileCheckpoints(folder / "kept"), "x"):
            pass


async def _load(where: Where, _: Path) -> None:
    """The store is, when the consumer begins."""
    async with PostgresCheckpoints(where.url, timeout=where.patience) as store, MemoryBackend() as backend:
        async with ffc.checkpointed(backend, store, "x"):
            pass


async def _save(where: Where, _: Path) -> None:
    async with PostgresCheckpoints(where.url, timeout=where.patience) as store:
        await store.save("x", Checkpoint(cursor=ffc.StreamCursor.outbox(1), backend="outbox", selection=""))


async def _install(where: Where, _: Path) -> None:
    await producers.install(where.url)


def _sync_subscribe(where: Where, _: Path) -> None:
    with sync.Backend(_connect(where)) as backend, backend.subscribe():
        pass


def _sync_wait(where: Where, _: Path) -> None:
    with sync.Backend(_connect(where)) as backend:
        backend.wait_for_completion(ID, timeout=2)


def _command(*words: str) -> None:
    """Raises what the command has said, if its status is that of trouble."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert not result.stdout
    line = result.stderr.strip()
    assert "\n" not in line
    assert line.startswith("ffcompletion: ")
    raise ffc.EngineError(line)


def _cli_tail(where: Where, _: Path) -> None:
    _command("tail", where.url, "--timeout", str(max(1, where.patience)))


def _cli_wait(where: Where, _: Path) -> None:
    _command("wait", where.url, ID, "--timeout", str(max(1, where.patience)))


def _cli_install(where: Where, _: Path) -> None:
    _command("producers", "install", where.url)


Door = Callable[[Where, Path], Coroutine[Any, Any, None] | None]
DOORS: dict[str, Door] = {
    "subscribe": _subscribe,
    "filtered": _filtered,
    "from a cursor": _from_a_cursor,
    "describe": _describe,
    "members": _members,
    "wait": _wait,
    "checkpointed": _checkpointed,
    "checkpointed, load": _load,
    "save": _save,
    "producers install": _install,
    "sync subscribe": _sync_subscribe,
    "sync wait": _sync_wait,
    "CLI tail": _cli_tail,
    "CLI wait": _cli_wait,
    "CLI producers install": _cli_install,
}
# Valkey keeps no log and no checkpoints.
ONLY_POSTGRES = frozenset({"from a cursor", "checkpointed", "checkpointed, load", "save"})
STORES = frozenset({"checkpointed, load", "save"})
INSTALLS = frozenset({"producers install", "CLI producers install"})


# ── the faults ───────────────────────────────────────────────────────────────────────────────────────────────────


class Postgres:
    """One server whose roles have passwords, and what can be wrong with it."""

    def __init__(self, folder: Path, server: embedded.Server) -> None:
        self.folder = folder
        self.server = server
        with psycopg.connect(server.url, autocommit=True) as conn:
            for statement in (
                "DROP DATABASE IF EXISTS empty",
                "DROP ROLE IF EXISTS powerless, crowded",
                f"CREATE ROLE powerless LOGIN PASSWORD '{RIGHT}'",
                f"CREATE ROLE crowded LOGIN PASSWORD '{RIGHT}' CONNECTION LIMIT 0",
                "CREATE DATABASE empty",
            ):
                conn.execute(statement.encode())

    def at(self, **changes: str) -> Where:
        parts = {"host": str(self.server.directory), "user": "app", "password": RIGHT, "dbname": "postgres"}
        return Where(make_conninfo(**{**parts, **changes}))

    @contextmanager
    def password(self) -> Iterator[Where]:
        yield self.at(password=WRONG)

    @contextmanager
    def database(self) -> Iterator[Where]:
        yield self.at(dbname="nowhere")

    @contextmanager
    def closed_port(self) -> Iterator[Where]:
        yield self.at(host="127.0.0.1", port=str(embedded.free_port()))

    @contextmanager
    def unknown_host(self) -> Iterator[Where]:
        yield self.at(host="nowhere.invalid")

    @contextmanager
    def proxied(self) -> Iterator[Proxy]:
        with Proxy(str(self.server.directory / ".s.PGSQL.5432")) as proxy:
            yield proxy

    @contextmanager
    def no_tls(self) -> Iterator[Where]:
        with self.proxied() as proxy:
            yield self.at(host="127.0.0.1", port=str(proxy.port), sslmode="require")

    @contextmanager
    def right(self) -> Iterator[Where]:
        yield self.at(user="powerless")

    @contextmanager
    def right_to_make(self) -> Iterator[Where]:
        yield self.at(user="powerless", dbname="empty")

    @contextmanager
    def table(self) -> Iterator[Where]:
        yield self.at(dbname="empty")

    @contextmanager
    def shutting_down(self) -> Iterator[Where]:
        """It waits for the one session that is still open, and takes no other."""
        with psycopg.connect(self.server.url):
            os.kill(self.server.pid, signal.SIGTERM)
            end = time.monotonic() + 10
            while time.monotonic() < end:
                try:
                    psycopg.connect(self.server.url).close()
                except psycopg.OperationalError:
                    break
            yield self.at()
        self.server.stop()
        self.server.start()

    @contextmanager
    def too_many(self) -> Iterator[Where]:
        yield self.at(user="crowded")

    @contextmanager
    def pooler_full(self) -> Iterator[Where]:
        """It takes no more clients."""
        with pgbouncer(self.server.url, self.folder, max_client_conn=1) as url:
            with psycopg.connect(url, autocommit=True):
                yield Where(make_conninfo(url, password=RIGHT))

    @contextmanager
    def pooler_busy(self) -> Iterator[Where]:
        """It takes them, and has no session of the server's for them."""
        with pgbouncer(self.server.url, self.folder, default_pool_size=1, query_wait_timeout=1) as url:
            with psycopg.connect(url) as conn:
                conn.execute("SELECT 1")
                yield impatient(Where(make_conninfo(url, password=RIGHT)))

    @contextmanager
    def mute(self) -> Iterator[Where]:
        with self.proxied() as proxy:
            proxy.freeze()
            yield impatient(self.at(host="127.0.0.1", port=str(proxy.port), connect_timeout="2"))
            proxy.cut()
            proxy.thaw()

    @contextmanager
    def hangs_up(self) -> Iterator[Where]:
        with self.proxied() as proxy:
            proxy.refuse()
            yield self.at(host="127.0.0.1", port=str(proxy.port))


class Valkey:
    """The same on Valkey."""

    def __init__(self, folder: Path, server: embedded.Server) -> None:
        self.authority = Authority(folder / "tls")
        self.server = server
        rules = f">{RIGHT}", "allkeys", "allchannels", "+@all"
        ask(self.server, "ACL", "SETUSER", "app", "on", *rules)
        ask(self.server, "ACL", "SETUSER", "powerless", "on", f">{RIGHT}", "+ping")

    def at(
        self, scheme: str = "valkey", user: str = "app", password: str = RIGHT, host: str = "", path: str = ""
    ) -> Where:
        return Where(f"{scheme}://{user}:{password}@{host or self.server.url.removeprefix('valkey://')}{path}")

    @contextmanager
    def password(self) -> Iterator[Where]:
        yield self.at(password=WRONG)

    @contextmanager
    def database(self) -> Iterator[Where]:
        yield self.at(path="/99")

    @contextmanager
    def closed_port(self) -> Iterator[Where]:
        yield self.at(host=f"127.0.0.1:{embedded.free_port()}")

    @contextmanager
    def unknown_host(self) -> Iterator[Where]:
        yield self.at(host="nowhere.invalid")

    @contextmanager
    def no_tls(self) -> Iterator[Where]:
        yield self.at("valkeys")

    @contextmanager
    def unknown_authority(self) -> Iterator[Where]:
        with Proxy(self.address, self.authority.server()) as proxy:
            yield Where(self.at("valkeys", host=f"127.0.0.1:{proxy.port}").url)

    @contextmanager
    def right(self) -> Iterator[Where]:
        yield self.at(user="powerless")

    @contextmanager
    def too_many(self) -> Iterator[Where]:
        with embedded.valkey("--maxclients", "1") as full:
            host, _, port = full.url.removeprefix("valkey://").partition(":")
            with socket.create_connection((host, int(port))) as holder:
                holder.sendall(b"PING\r\n")
                holder.recv(16)
                yield self.at(host=f"{host}:{port}")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.server.url.removeprefix("valkey://").partition(":")
        return host, int(port)

    @contextmanager
    def mute(self) -> Iterator[Where]:
        with Proxy(self.address) as proxy:
            proxy.freeze()
            yield impatient(self.at(host=f"127.0.0.1:{proxy.port}"))
            proxy.cut()
            proxy.thaw()

    @contextmanager
    def hangs_up(self) -> Iterator[Where]:
        with Proxy(self.address) as proxy:
            proxy.refuse()
            yield self.at(host=f"127.0.0.1:{proxy.port}")


def postgres(make: str, error: type[ffc.EngineError], text: str, **more: Any) -> Fault:
    return Fault(server="postgres", make=make, error=error, text=text, **more)


def valkey(make: str, error: type[ffc.EngineError], text: str, **more: Any) -> Fault:
    return Fault(server="valkey", make=make, error=error, text=text, not_at=ONLY_POSTGRES, **more)


FAULTS = [
    postgres("password", ffc.Unavailable, 'password authentication failed for user "app"'),
    postgres("database", ffc.Unavailable, 'database "nowhere" does not exist'),
    postgres("closed_port", ffc.Transport, "[Rr]efused"),
    postgres("unknown_host", ffc.Transport, "nowhere.invalid"),
    postgres("no_tls", ffc.Transport, "server does not support SSL"),
    postgres("right", ffc.Unavailable, "GRANT SELECT|permission denied", not_at=STORES | INSTALLS),
    postgres(
        "right_to_make", ffc.Unavailable, "permission denied for schema", not_at=frozenset(DOORS) - STORES - INSTALLS
    ),
    postgres("table", ffc.Unavailable, "producers install", not_at=STORES | INSTALLS),
    postgres("too_many", ffc.Transport, 'too many connections for role "crowded"'),
    postgres("pooler_full", ffc.Transport, "no more connections allowed"),
    postgres("pooler_busy", ffc.Transport, "query_wait_timeout|no answer|could not be asked"),
    postgres("mute", ffc.Transport, "no answer|timeout expired|could not be asked"),
    postgres("hangs_up", ffc.Transport, "closed the connection unexpectedly"),
    postgres("shutting_down", ffc.Transport, "the database system is shutting down"),
    valkey("password", ffc.Unavailable, "refused the credentials"),
    valkey("database", ffc.Unavailable, "no such database"),
    valkey("closed_port", ffc.Transport, "[Rr]efused"),
    valkey("unknown_host", ffc.Transport, "nowhere.invalid"),
    valkey("no_tls", ffc.Transport, "does not speak TLS"),
    valkey("unknown_authority", ffc.Transport, "[Cc]ertificate|UnknownIssuer"),
    valkey("right", ffc.Unavailable, "ACL"),
    valkey("too_many", ffc.ResourceExhausted, "max number of clients reached"),
    valkey("mute", ffc.Transport, "no answer|could not be asked"),
    valkey("hangs_up", ffc.Transport, "closed the connection"),
]
CASES = [
    pytest.param(fault, door, id=f"{fault.server}-{fault.make}-{door}")
    for fault in FAULTS
    for door in DOORS
    if door not in fault.not_at
]


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, server: embedded.Server
) -> Iterator[dict[str, Postgres | Valkey]]:
    with embedded.valkey() as valkey:
        yield {
            "postgres": Postgres(tmp_path_factory.mktemp("pooler"), server),
            "valkey": Valkey(tmp_path_factory.mktemp("valkey"), valkey),
        }


class Made:
    """The one fault that there is now."""

    def __init__(self, servers: dict[str, Postgres | Valkey]) -> None:
        self._servers = servers
        self._stack = ExitStack()
        self._fault: Fault | None = None
        self._where: Where | None = None

    def where(self, fault: Fault) -> Where:
        """Where it is met; made with its first door, undone with the first of another."""
        if self._fault is not fault or self._where is None:
            self.undo()
            self._where = self._stack.enter_context(getattr(self._servers[fault.server], fault.make)())
            self._fault = fault
        return self._where

    def undo(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def made(servers: dict[str, Postgres | Valkey]) -> Iterator[Made]:
    made = Made(servers)
    yield made
    made.undo()


def _all_of(error: BaseException) -> str:
    """Everything that anybody could print of it."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return "\n".join(f"{each} {each!r} {each.args}" for each in chain) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize(("wanted", "door"), CASES)
def test_a_fault_at_a_door(
    made: Made, wanted: Fault, door: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = made.where(wanted)
    caplog.set_level(logging.DEBUG, "ffcompletion")

    def meet() -> None:
        work = DOORS[door](where, tmp_path)
        if work is not None:
            asyncio.run(work)

    started = time.monotonic()
    with pytest.raises(ffc.EngineError) as caught:
        meet()
    took = time.monotonic() - started
    error = caught.value
    assert isinstance(error, wanted.error) or door.startswith("CLI")
    assert re.search(wanted.text, str(error)), str(error)
    assert SECRET not in _all_of(error)
    assert SECRET not in caplog.text
    assert took < wanted.within
