"""An open transaction that holds the watermark: who it is stands in the log, once; and when it is over."""

from __future__ import annotations

import logging
from decimal import Decimal

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.postgres.holders import Holder, Holding
from tests.worlds import PostgresWorld, done, eventually, first, insert


async def test_who_holds_the_watermark_is_told(postgres: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ffcompletion")
    async with PostgresBackend(postgres.url) as backend, ffc.subscribe(backend) as stream:
        run = backend._run
        assert run is not None
        run.reader.holding = Holding(0.3)
        writer = await postgres.connect(autocommit=False)
        await insert(writer, done())
        await writer.execute("SELECT 'a value', 42")
        later = done()
        await postgres.announce(later)
        assert (await first(stream)).execution_id == later.execution_id

        def lines(start: str) -> list[str]:
            return [message for message in caplog.messages if message.startswith(start)]

        await eventually(lambda: bool(lines("the watermark has been held")), 10)
        (line,) = lines("the watermark has been held")
        assert f"pid {writer.info.backend_pid} (test, idle in transaction), since 20" in line
        assert "42" in line
        assert "a value" not in line
        assert "(1 ids beyond it are missing)" in line
        assert backend.stats().held == 1
        await writer.rollback()
        await eventually(lambda: bool(lines("the watermark moves again")), 10)
        assert len(lines("the watermark")) == 2


async def test_who_may_not_be_seen(postgres: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """A role without the right to see other sessions is told as much as it may know."""
    await postgres.sql("CREATE ROLE sees_little LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO sees_little")
    url = postgres.url.replace("postgres@", "sees_little@", 1)
    writer = await postgres.connect(autocommit=False)
    try:
        async with PostgresBackend(url) as backend, ffc.subscribe(backend) as stream:
            run = backend._run
            assert run is not None
            run.reader.holding = Holding(0.2)
            await insert(writer, done())
            await postgres.announce(done())
            await first(stream)
            await eventually(lambda: any("may not see more" in message for message in caplog.messages), 10)
    finally:
        await writer.rollback()
        await postgres.sql("DROP OWNED BY sees_little; DROP ROLE sees_little")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (r"INSERT INTO t VALUES (E'it\'s S3cret', 2)", "INSERT INTO t VALUES (E'…'"),
        (r"INSERT INTO t VALUES ('a\', 'S3cret')", "INSERT INTO t VALUES ('…'"),
        ("INSERT INTO t VALUES ('it''s', $x$S3cret$x$, 'S3cret", "INSERT INTO t VALUES ('…', '…', '…'"),
    ],
)
def test_no_value_of_a_holder_s_query_is_told(query: str, shown: str) -> None:
    """However its strings are written: what is in doubt is left out."""
    holder = Holder.of((1, "app", "active", Decimal("3.5"), "2026-01-01 00:00:00", query, None))
    assert holder.query == shown
    assert holder.age_s == 3.5
