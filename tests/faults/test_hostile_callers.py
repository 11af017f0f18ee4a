"""A careless caller in the same process: what it gives, raises and leaves behind stays with it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.foreign.logs import logger
from tests.worlds import World, done, some

# ── logging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Exits(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit


class _Broken:
    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file")

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


def test_a_line_that_can_be_said_nowhere_is_lost_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon's stderr may be closed: what would have been said there ended the task that said it."""
    log = logger("ffcompletion.test.nowhere")
    monkeypatch.setattr(sys, "stderr", _Broken())
    monkeypatch.setattr(logging.getLogger("ffcompletion.test.nowhere"), "propagate", False)
    log.warning("nobody hears this")
    monkeypatch.setattr(logging, "lastResort", _Exits())
    log.warning("nor this")
    monkeypatch.setattr(logging, "lastResort", None)
    logging.getLogger("ffcompletion.test.nowhere").addHandler(_Exits())
    log.warning("nor this")
    assert log.refused == 3


async def test_streams_go_on_where_stderr_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Broken())
    monkeypatch.setattr(logging.getLogger("ffcompletion"), "propagate", False)
    async with world.backend() as backend:
        stream = await backend.subscribe_completions()
        await world.drop_connections()
        items = [done() for _ in range(3)]
        for item in items:
            await world.ends(item)
        assert {item.execution_id for item in await some(stream, 3)} == {item.execution_id for item in items}
        await stream.aclose()


# ── filters within filters ───────────────────────────────────────────────────────────────────────────────────────────


def _nested(levels: int) -> Any:
    wanted: Any = ffc.ScannerFilter("a")
    for level in range(levels // 2):
        wanted = ffc.all_of(ffc.ScannerFilter("a"), ffc.any_of(ffc.ScannerFilter(f"x{level}"), wanted))
    return wanted


async def test_filters_within_each_other_are_bounded(world: World) -> None:
    """Each level asks the next: of 320, the stack of whoever reads for everybody did not suffice."""
    with pytest.raises(ffc.Validation, match="within each other"):
        _nested(34)
    async with world.backend() as backend:
        deep = await backend.subscribe_completions_filtered(_nested(32))
        other = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        item = done(namespace="a")
        await world.announce(done(namespace="b"), item)
        for stream in (deep, other):
            assert (await some(stream, 1))[0].execution_id == item.execution_id
            assert (stream.stats().overflows, stream.stats().undecided) == (0, 0)
            await stream.aclose()
