"""An interrupt (Ctrl-C, in a notebook say) between any two lines of a blocking call: everybody else goes on."""

from __future__ import annotations

import gc
import linecache
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.sync.loop import loop_thread

DONE, UNKNOWN = (f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544000{n}" for n in range(2))
BEGINNING = ffc.StreamCursor.beginning()


def _interrupted_after(steps: int, what: Callable[[], object]) -> bool:
    """Do it; whether it was interrupted before so many lines, and ends of functions, of this thread had passed."""
    left = steps

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event in {"line", "return"} and not _never_there(frame):
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        what()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(former)
    # What is ignored where it is raised (in a finalizer) is as good as none.
    return left <= 0


def _never_there(frame: FrameType) -> bool:
    # Between a block and its lock's release the interpreter lets no interrupt in; where a trace function raises in the
    # handler of an error, it keeps the frames; and a thread that was kept from beginning it lists for good.
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ") or sys.exc_info()[0] is not None or _begins_a_thread(frame)


def _begins_a_thread(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not threading.Thread.start.__code__:
        frame = frame.f_back
    return frame is not None


def _waits(backend: ffc.sync.Backend) -> None:
    backend.wait_for_completion(DONE)


def _iterates_waits(backend: ffc.sync.Backend) -> None:
    for _each in backend.as_completed([DONE, UNKNOWN], missing="wait"):
        break


def _reads(backend: ffc.sync.Backend) -> None:
    for _each in backend.subscribe(cursor=BEGINNING):
        break


def _closes(backend: ffc.sync.Backend) -> None:
    stream = backend.subscribe(cursor=BEGINNING)
    next(stream)
    stream.close()


@pytest.fixture(autouse=True)
def _in_finalizers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an interrupt is told of, and ignored."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("call", [_waits, _iterates_waits, _reads, _closes])
def test_interrupted_anywhere(call: Callable[[ffc.sync.Backend], None]) -> None:
    """The thread that all share was deaf for good, or stayed; or ``aclose()`` of a running generator was the error."""
    memory = MemoryBackend()
    memory.emit(DONE)
    with ffc.sync.Backend(memory) as backend:
        call(backend)
        steps = 1
        while _interrupted_after(steps, lambda: call(backend)):
            steps += 1
            asking = threading.Thread(target=backend.ping, daemon=True)
            asking.start()
            asking.join(20)
            assert not asking.is_alive(), f"after {steps} steps nobody is answered any more"
        assert steps > 50
        gc.collect()
        # What an interrupt kept from being released as it was dropped is, by the next.
        backend.subscribe().close()
        _until(lambda: memory.stats().streams == 0)
        _until(lambda: loop_thread().users == 1)
    assert not _threads()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_first_and_last_interrupted_anywhere() -> None:
    """Whoever comes next has a loop that runs."""
    steps = 1
    while _interrupted_after(steps, _alone):
        steps += 7
        gc.collect()
        asking = threading.Thread(target=_alone, daemon=True)
        asking.start()
        asking.join(20)
        assert not asking.is_alive(), f"after {steps} steps nobody is answered any more"
    assert steps > 50
    _alone()
    _until(lambda: not _threads())


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ffcompletion-sync"]


def _alone() -> None:
    with ffc.sync.connect("memory://") as backend:
        backend.ping()


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not what():
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.01)
