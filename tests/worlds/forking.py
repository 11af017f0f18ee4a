"""Python programs as processes of their own, forked from one that has imported what they need.

An interpreter that imports the command line takes a good part of a second; there are hundreds in a run of the tests. What a
process is, each has: descriptors, signals, environment, directory, exit status. `Interpreter` gives the words to start one
with, in place of ``sys.executable``, which run `launch`. What imports, encodings or the interpreter itself are the subject
of is started the plain way.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import override

from tests import ROOT

LAUNCHER = Path(__file__).with_name("launch.py")
PACKAGES = ("ffcompletion", "glide", "psycopg", "rich.live", "uvicorn", "httpx")


class Interpreter(Sequence[str]):
    """The words that stand for ``sys.executable``; the process that is forked from starts when they are first asked for."""

    def __init__(self, *more: str) -> None:
        self._more = more

    def _words(self) -> list[str]:
        return [sys.executable, "-I", "-S", str(LAUNCHER), _Source.the().address, *self._more]

    @override
    def __getitem__(self, at: Any) -> Any:
        return self._words()[at]

    @override
    def __len__(self) -> int:
        return 5 + len(self._more)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._words())


class _Source:
    """The process that is forked from, as long as the tests run."""

    _the: _Source | None = None

    @classmethod
    def the(cls) -> _Source:
        if cls._the is None:
            cls._the = _Source()
        return cls._the

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ffcompletion-tests-")
        self.address = f"{self._folder}/socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worlds.forking", self.address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self._process.stdout.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        shutil.rmtree(self._folder)


def close_source() -> None:
    """Nothing can be started any more."""
    source, _Source._the = _Source._the, None
    if source is not None:
        source.close()


# ── in the process that is forked from ───────────────────────────────────────────────────────────────────────────────


def _load() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Importing from 'glide", DeprecationWarning)
        for name in PACKAGES:
            importlib.import_module(name)
        for module in pkgutil.walk_packages(importlib.import_module("ffcompletion").__path__, "ffcompletion."):
            if not module.name.startswith("ffcompletion.testing") and "__main__" not in module.name:
                importlib.import_module(module.name)
    # Collecting what there is by now would copy every page of it in each child.
    gc.collect()
    gc.freeze()


class _Server:
    """Forks for whoever connects; the loop is left in each child alone, with what it is to do."""

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for each in (self._woken, self._wake):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())

    def until_asked(self) -> Callable[[], None] | None:
        """In a child: what it is to do. In the parent: None, when the tests are over."""
        for source in (self._listener, self._woken, sys.stdin):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    for pid in self._children:
                        os.kill(pid, signal.SIGKILL)
                    return None
                if key.fileobj is self._listener:
                    if (work := self._fork()) is not None:
                        return work
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                elif key.data in self._children:
                    self._signal(self._children[key.data], key.data)

    def _fork(self) -> Callable[[], None] | None:
        conn = self._listener.accept()[0]
        length, fds, _, _ = socket.recv_fds(conn, 4, 3)
        request = b""
        while len(request) < int.from_bytes(length, "big"):
            request += conn.recv(1 << 20)
        pid = os.fork()
        if pid == 0:
            return self._become(request.split(b"\0"), fds, conn)
        for fd in fds:
            os.close(fd)
        self._children[pid] = conn
        self._selector.register(conn, selectors.EVENT_READ, pid)
        return None

    def _signal(self, conn: socket.socket, pid: int) -> None:
        try:
            signs = conn.recv(16)
        except OSError:
            signs = b""
        if not signs:
            # What stands for it was killed.
            self._selector.unregister(conn)
        for sign in signs or bytes([signal.SIGKILL]):
            os.kill(pid, sign)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._children.pop(pid) as conn, contextlib.suppress(OSError, KeyError):
                self._selector.unregister(conn)
                conn.send(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))

    def _become(self, asked: list[bytes], fds: Sequence[int], conn: socket.socket) -> Callable[[], None]:
        """Be the process that was asked for, but for what it runs."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for each in (conn, self._listener, self._woken, self._wake, *self._children.values()):
            each.close()
        for at, fd in enumerate(fds):
            os.dup2(fd, at)
            os.close(fd)
        directory, count, *rest = asked
        words, environment = rest[: int(count)], rest[int(count) :]
        os.chdir(directory)
        os.environb.clear()
        for pair in environment:
            name, _, value = pair.partition(b"=")
            os.environb[name] = value
        _reopen()
        return lambda: _run([os.fsdecode(word) for word in words])


def _reopen() -> None:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = TextIOWrapper(BufferedReader(FileIO(0, closefd=False)), "utf-8")
    for fd, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        stream = TextIOWrapper(
            BufferedWriter(FileIO(fd, "w", closefd=False)), "utf-8", errors,
            line_buffering=fd == 2 or os.isatty(fd), write_through=unbuffered,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> None:
    """As the interpreter does with these words."""
    while words[0] == "-W":
        sys.warnoptions.append(words[1])
        warnings.simplefilter(words[1])  # type: ignore[arg-type]  # an action
        words = words[2:]
    above = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    if words[0] == "-m":
        sys.path[:0] = [str(Path.cwd()), *above]
        sys.argv = ["-m", *words[2:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[:0] = ["", *above]
        sys.argv = ["-c", *words[2:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.path[:0] = [str(Path(words[0]).parent), *above]
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def _main() -> Callable[[], None] | None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _load()
    assert threading.active_count() == 1, "forking is for one thread"
    server = _Server(sys.argv[1])
    print("ready", flush=True)
    return server.until_asked()


if __name__ == "__main__":
    if (_work := _main()) is not None:
        _work()
