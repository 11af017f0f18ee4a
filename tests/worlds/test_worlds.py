"""What tests stand on: programs that are forked are as those that are started, tables are emptied, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest

from ffcompletion.embedded import free_port
from tests.worlds import emptying, temporary
from tests.worlds.forking import Interpreter
from tests.worlds.templates import FEW_PARTITIONS, engine_schema
from tests.worlds.templates import postgres as postgres_server

# ── forking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ALL_OF_IT = (
    "import os, sys, warnings\n"
    "print(__name__, sys.argv[1:], os.getcwd(), os.environ.get('SAID'), os.environ.get('PATH'), sys.warnoptions)\n"
    "print(sys.stdin.read().upper(), end='')\n"
    "print('ü', file=sys.stderr)\n"
)


def _plain(words: Sequence[str]) -> list[str]:
    return [sys.executable, *words]


def _forked(words: Sequence[str]) -> list[str]:
    return [*Interpreter(*words)]


def _both(words: Sequence[str], folder: Path) -> list[tuple[int, bytes, bytes]]:
    """Exit status, output and the last line of errors: as it is started, and as it is forked."""
    found = []
    for start in (_plain, _forked):
        done = subprocess.run(
            start(words), input=b"spoken", capture_output=True, cwd=folder, timeout=60, check=False,
            env={**os.environ, "SAID": "a=b\nc", "PYTHONUTF8": "1"},
        )  # fmt: skip
        found.append((done.returncode, done.stdout, b"".join(done.stderr.splitlines()[-1:])))
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("-W", "error", "-c", ALL_OF_IT, "one", "two words", ""),
        ("program.py", "one"),
        ("-m", "program", "one"),
        ("-c", "raise SystemExit(7)"),
        ("-c", "raise SystemExit('a last word')"),
        ("-c", "import os; os._exit(9)"),
        ("-c", "1 / 0"),
        ("-W", "error", "-c", "import warnings; warnings.warn('now')"),
        ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
        ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        ("-c", "import threading; threading.Thread(target=print, args=('late',)).start()"),
        ("-c", "import atexit; atexit.register(print, 'at exit')"),
        ("-m", "no_such_module"),
    ],
)
def test_a_program_that_is_forked_is_as_one_that_is_started(words: Sequence[str], tmp_path: Path) -> None:
    """Arguments, directory, environment, descriptors, warnings, exit status."""
    (tmp_path / "program.py").write_text(ALL_OF_IT)
    started, forked = _both(words, tmp_path)
    if "no_such_module" in words:
        # The interpreter's own word for it begins with its path.
        assert (started[0], forked[0]) == (1, 1)
        assert all(b"no_such_module" in told for _, _, told in (started, forked))
    else:
        assert forked == started


@pytest.mark.parametrize("start", [_plain, _forked])
@pytest.mark.parametrize(
    ("sign", "status"), [(signal.SIGTERM, 3), (signal.SIGINT, 4), (signal.SIGUSR1, -signal.SIGUSR1)]
)
def test_signals_reach_it(start: Callable[[Sequence[str]], list[str]], sign: signal.Signals, status: int) -> None:
    """One that it handles, an interrupt, one that ends it."""
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        # Whoever runs this in the background may have interrupts ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: sys.exit(4)\n"
    )
    with subprocess.Popen(start(["-c", program]), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sign)
        assert process.wait(20) == status


def test_it_is_killed_with_what_stands_for_it() -> None:
    """``Popen.kill`` cannot be passed on."""
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(_forked(["-c", program]), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid != process.pid
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        # At the end of the file nobody has it open any more.
        assert process.stdout.read() == ""
        _until_gone(pid)


def _until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail(f"{pid} is still there")


# ── emptying ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM ff_completion_event) + (SELECT count(*) FROM ff_exec_core)"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_tables_are_emptied_over_one_connection_that_may_be_lost(postgres18_url: str) -> None:
    emptying.empty(postgres18_url)
    for lost in (False, True):
        with psycopg.connect(postgres18_url, autocommit=True) as conn:
            if lost:
                held = emptying._connections[postgres18_url]
                conn.execute("SELECT pg_terminate_backend(%s)", (held.info.backend_pid,))
            conn.execute(
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                " SELECT n, gen_random_uuid(), 'success', 1 FROM generate_series(0, 255) n"
            )
            conn.execute(
                "INSERT INTO ff_exec_core (partition_key, execution_id) SELECT n, gen_random_uuid() FROM generate_series(0, 255) n"
            )
        assert _rows(postgres18_url) == 512
        emptying.empty(postgres18_url)
        assert _rows(postgres18_url) == 0


def test_a_server_that_is_not_there_is_not_emptied() -> None:
    """And the driver says why."""
    with pytest.raises(psycopg.OperationalError, match="refused"):
        emptying.empty(f"postgresql://127.0.0.1:{free_port()}/x")


def test_a_server_from_a_template_is_one_that_was_made() -> None:
    """The engine's tables are in it, so making them again changes nothing."""
    with postgres_server(partitions=FEW_PARTITIONS) as server:
        engine_schema(server.url)
        with psycopg.connect(server.url) as conn:
            found = conn.execute(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ff_completion_event'::regclass"
            ).fetchone()
    assert found == (FEW_PARTITIONS,)


# ── a run's folder ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_folders_of_runs_that_were_killed_are_swept_and_no_others(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as ended:
        ended.wait(20)
    names = {
        f"{temporary._PREFIX}{ended.pid}-abc": False,
        f"{temporary._PREFIX}nonsense-abc": False,
        f"{temporary._PREFIX}{os.getpid()}-abc": True,
        f"{temporary._PREFIX}1-abc": True,
        "somebody-else": True,
    }
    for name in names:
        (tmp_path / name / "inside").mkdir(parents=True)
    temporary._sweep(tmp_path)
    assert {name: (tmp_path / name / "inside").exists() for name in names} == names


def test_a_run_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    """Not with one that was forked from it."""
    folder = tmp_path / "run"
    folder.mkdir()
    temporary._end_run(folder, os.getpid() + 1)
    assert folder.exists()
    temporary._end_run(folder, os.getpid())
    assert not folder.exists()


def test_what_is_left_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's folder, and a process that works in one; nothing of others."""
    monkeypatch.setenv(temporary._RUN, str(tmp_path))
    assert temporary.left_behind() == []
    (tmp_path / "something").mkdir()
    server = tmp_path / "ffcompletion-pg-1"
    server.mkdir()
    assert temporary.left_behind() == ["ffcompletion-pg-1"]
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=server, stdin=subprocess.PIPE) as process:
        assert temporary.left_behind() == sorted([str(server.resolve()), "ffcompletion-pg-1"])
        assert process.stdin is not None
        process.communicate(b"\n", 20)
    server.rmdir()
    assert temporary.left_behind() == []
    monkeypatch.delenv(temporary._RUN)
    assert temporary.left_behind() == []
