"""Servers that only tests need: a streaming replica of Postgres, a Valkey cluster."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import psycopg
import pytest
import trustme

from ffcompletion import embedded
from ffcompletion.embedded import Server
from ffcompletion.guardian import dismiss, guarded
from tests.worlds.templates import postgres


def standby_of(primary: Server) -> Server:
    """A streaming replica of an embedded Postgres, made with the same installation's pg_basebackup."""
    program, user = Path(primary._command[0]), primary._user
    directory, guardian = guarded("ffcompletion-pg-", signal.SIGINT)
    try:
        if user is not None:
            shutil.chown(directory, user)
            directory.chmod(0o711)
        backup = [
            str(program.with_name("pg_basebackup")),
            "-D",
            str(directory / "data"),
            "-R",
            "-c",
            "fast",
            "--no-sync",
        ]
        subprocess.run(
            [*backup, "-h", str(primary.directory), "-U", "postgres"],
            check=True, capture_output=True, cwd=directory, user=user, extra_groups=[] if user else None, timeout=60,
        )  # fmt: skip
    except BaseException:
        dismiss(directory, guardian)
        raise
    old, new = str(primary.directory), str(directory)
    # The program itself may lie below the primary's directory, and stays there.
    command = [str(program), *(word.replace(old, new) for word in primary._command[1:])]
    url = primary.url.replace(old, new)
    return embedded._started(Server("postgres", url, directory, command, signal.SIGINT, user, guardian))


PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextlib.contextmanager
def pgbouncer(url: str, folder: Path, mode: str = "transaction", **settings: object) -> Iterator[str]:
    """PgBouncer in front of an embedded Postgres, in a folder of its own; its URL. Without one the test is skipped."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    port = embedded.free_port()
    info = psycopg.conninfo.conninfo_to_dict(url)
    options = {"pool_mode": mode, "default_pool_size": 5, "auth_type": "any", **settings}
    path = folder / "pgbouncer.ini"
    path.write_text(
        f"[databases]\npostgres = host={info['host']} port={info['port']} dbname=postgres user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        + "".join(f"{name} = {value}\n" for name, value in options.items())
    )
    for above in (folder, *folder.parents):
        if above.stat().st_uid == path.stat().st_uid and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    path.chmod(0o644)
    process = subprocess.Popen(
        [PGBOUNCER, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=embedded.unprivileged_user()
    )
    through = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    end = time.monotonic() + 10
    try:
        while True:
            try:
                psycopg.connect(through, connect_timeout=2).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, "pgbouncer did not start"
                assert time.monotonic() < end
                time.sleep(0.02)
        yield through
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


def ask(server: Server, *words: str) -> str:
    """One command over a connection of its own; the raw reply. Raises ``OSError``, also for an error reply."""
    host, _, port = server.url.removeprefix("valkey://").partition(":")
    with socket.create_connection((host, int(port)), 5.0) as conn:
        conn.sendall(f"*{len(words)}\r\n".encode() + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        with conn.makefile("rb") as replies:
            head = replies.readline().decode().strip()
            if head.startswith("-"):
                raise OSError(head)
            if not head.startswith("$"):
                return head
            return replies.read(int(head[1:]) + 2)[:-2].decode()


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """A deadline instead of a hope; what is not there yet may raise ``OSError``."""
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("the cluster did not come to rest")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that were free, all at once, a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Cluster:
    """Three primaries, each with a replica. ``nodes[n]`` and ``nodes[n + 3]`` hold the same slots."""

    def __init__(self, *options: str) -> None:
        settings = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout",
                    str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0", *options)  # fmt: skip
        # A port of its own for each node's bus: the default lies 10,000 higher, which may be no port.
        ports = free_ports(12)
        buses = list(map(str, ports[6:]))
        self.nodes: list[Server] = []
        try:
            for port, bus in zip(ports, buses, strict=False):
                self.nodes.append(embedded.valkey(*settings, "--cluster-port", bus, port=port))
            self._join(buses[0])
        except BaseException:
            self.close()
            raise

    def _join(self, bus: str) -> None:
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        for number, node in enumerate(primaries):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            ask(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node in self.nodes[1:]:
            ask(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].url.rpartition(":")[2], bus)
        wait_until(lambda: all(self.known(node) == 6 for node in self.nodes))
        for replica, primary in zip(replicas, primaries, strict=True):
            ask(replica, "CLUSTER", "REPLICATE", self.name(primary))
        wait_until(self.at_rest)

    @staticmethod
    def name(node: Server) -> str:
        return ask(node, "CLUSTER", "MYID")

    @staticmethod
    def known(node: Server) -> int:
        return len(ask(node, "CLUSTER", "NODES").strip().splitlines())

    @staticmethod
    def role(node: Server) -> str:
        return "primary" if "role:master" in ask(node, "INFO", "replication") else "replica"

    def at_rest(self) -> bool:
        """Three primaries, every node sees all slots served, and every replica has its data."""
        if [self.role(node) for node in self.nodes].count("primary") != 3:
            return False
        for node in self.nodes:
            if "cluster_state:ok" not in ask(node, "CLUSTER", "INFO"):
                return False
            text = ask(node, "INFO", "replication")
            if "role:slave" in text and "master_link_status:up" not in text:
                return False
        return True

    def primary_of(self, number: int) -> Server:
        """Whichever of the two nodes that hold this third of the slots is the primary now."""
        for node in (self.nodes[number], self.nodes[number + 3]):
            try:
                if self.role(node) == "primary":
                    return node
            except OSError:
                continue
        raise OSError("neither is up")

    @property
    def url(self) -> str:
        hosts = ",".join(node.url.removeprefix("valkey://") for node in self.nodes)
        return f"valkey://{hosts}?cluster=true"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop them all."""
        for node in self.nodes:
            node.close()


PASSWORD = "sEcReT-right"


@contextlib.contextmanager
def postgres_with_passwords() -> Iterator[Server]:
    """A Postgres that a test may hurt, with the engine's tables; the role ``app`` reads them, by its password."""
    with postgres("max_connections=40") as made:
        with psycopg.connect(made.url, autocommit=True) as conn:
            conn.execute(psycopg.sql.SQL("CREATE ROLE app LOGIN PASSWORD {}").format(PASSWORD))
            conn.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app")
            (made.directory / "data" / "pg_hba.conf").write_text("local all app scram-sha-256\nlocal all all trust\n")
            conn.execute("SELECT pg_reload_conf()")
        without = psycopg.conninfo.make_conninfo(made.url, user="app")
        wait_until(lambda: not _lets_in(without))
        yield made


def _lets_in(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


class Authority:
    """A CA of our own, and what it has issued, as files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.issuer = trustme.CA()
        self.ca, self.cert, self.key = (str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        self.issuer.cert_pem.write_to_path(self.ca)
        client = self.issuer.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(self.key)
        client.cert_chain_pems[0].write_to_path(self.cert)

    def server(self, *, ask_for_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issuer.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        if ask_for_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.issuer.configure_trust(context)
        return context
