"""Stored positions: those that cannot be right, and of an outbox that is no longer there."""

from __future__ import annotations

import logging

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import position
from ffcompletion.foreign.logs import RateLog, logger
from tests.worlds import PostgresWorld, done, first, insert, nothing, some


async def test_cursors_that_cannot_be_right(
    postgres: PostgresWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimmed, or from the future: CursorExpired. A short hole: a warning."""
    # Another test's may have been told just now.
    monkeypatch.setattr(position, "_missing_log", RateLog(logger("ffcompletion.postgres")))
    await postgres.announce(*[done() for _ in range(50)])
    (low, high) = (await postgres.sql("SELECT min(event_id), max(event_id) FROM ff_completion_event"))[0]
    await postgres.sql("DELETE FROM ff_completion_event WHERE event_id < %s", (low + 40,))
    async with postgres.backend() as backend:
        with pytest.raises(ffc.CursorExpired, match="trimmed"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low)):
                pass
        with pytest.raises(ffc.CursorExpired, match="future"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(high + 1000)):
                pass
        caplog.set_level(logging.WARNING)
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low + 30)) as stream:
            assert len(await some(stream, 10)) == 10
        assert "cannot be told" in caplog.text
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(high)) as stream:
            await nothing(stream, done(), postgres)
        await postgres.sql("DELETE FROM ff_completion_event")
        with pytest.raises(ffc.CursorExpired, match="empty"):
            async with ffc.subscribe(backend, cursor=ffc.StreamCursor.outbox(low)):
                pass


async def test_an_outbox_that_was_emptied(postgres: PostgresWorld) -> None:
    """What was trimmed is no gap: cursors begin at the last id given out, and a writer under way is not missed."""
    await postgres.announce(*[done() for _ in range(5)])
    under_way = await postgres.connect(autocommit=False)
    early = done()
    await insert(under_way, early)
    await postgres.sql("DELETE FROM ff_completion_event")
    (issued,) = (await postgres.sql("SELECT last_value FROM ff_completion_event_event_id_seq"))[0]
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        item = done()
        await postgres.announce(item)
        got = await first(stream)
        assert got.execution_id == item.execution_id
        assert got.cursor.event_id < issued
        await under_way.commit()
        assert (await first(stream)).execution_id == early.execution_id
    await postgres.sql("DELETE FROM ff_completion_event")
    async with postgres.backend() as backend, ffc.subscribe(backend) as stream:
        await postgres.announce(item)
        assert (await first(stream)).cursor.event_id == issued + 2
