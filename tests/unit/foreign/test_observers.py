"""An observer is told, and what it does is its own business."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.foreign.logs import logger
from ffcompletion.foreign.observers import contained_observer

LOG = logger("ffcompletion.test")
EVENT = ffc.BackendEvent("memory", ffc.BackendState.LIVE)


def test_it_is_told() -> None:
    seen: list[ffc.BackendEvent] = []
    contained_observer(seen.append, LOG)(EVENT)
    contained_observer(None, LOG)(EVENT)
    assert seen == [EVENT]


def test_one_that_raises_or_is_async_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    def raises(_: ffc.BackendEvent) -> None:
        raise SystemExit

    async def later(_: ffc.BackendEvent) -> None: ...

    wrong: Any = later
    for observer in (raises, wrong):
        contained_observer(observer, LOG)(EVENT)
    assert ["SystemExit" in caplog.messages[0], "coroutine" in caplog.messages[1]] == [True, True]


def test_what_cannot_be_called_is_refused() -> None:
    wrong: Any = 7
    with pytest.raises(ffc.Validation, match="int"):
        contained_observer(wrong, LOG)
