"""The cause that is told is the true one: why a wait is not known, and why a session ended."""

from __future__ import annotations

import logging

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from tests.faults.test_field_postgres import as_app
from tests.worlds import PostgresWorld, done, eventually, first
from tests.worlds.servers import PASSWORD

pytestmark = pytest.mark.timeout(60)


async def test_a_wait_that_finds_a_stream_being_mended_says_what_keeps_it(
    own: PostgresWorld, server: embedded.Server
) -> None:
    """The password was changed: not only that nothing could be asked, but why."""
    async with PostgresBackend(as_app(server)) as backend, ffc.subscribe(backend) as stream:
        await own.sql("ALTER ROLE app PASSWORD 'another'")
        try:
            await own.drop_connections()
            await eventually(lambda: backend.stats().state is ffc.BackendState.RECONNECTING)
            with pytest.raises(ffc.StateUnknown, match="password authentication failed") as caught:
                await ffc.wait_for_completion(backend, done().execution_id, timeout=1)
            assert isinstance(caught.value.__cause__, ffc.EngineError)
            assert "another" not in str(caught.value)
        finally:
            await own.sql(f"ALTER ROLE app PASSWORD '{PASSWORD}'")
        item = done()
        await own.announce(item)
        assert (await first(stream)).execution_id == item.execution_id


@pytest.mark.parametrize(
    ("ended_by", "words"),
    [
        ("ALTER ROLE app SET idle_session_timeout = '300ms'", "idle-session timeout"),
        (None, "administrator command"),
    ],
)
async def test_the_log_says_why_the_server_ended_a_session(
    own: PostgresWorld, server: embedded.Server, caplog: pytest.LogCaptureFixture, ended_by: str | None, words: str
) -> None:
    """What it said last, not that the connection was closed unexpectedly."""
    caplog.set_level(logging.INFO, "ffcompletion")
    try:
        if ended_by is not None:
            await own.sql(ended_by)
        # No poll comes in between to find the connection that reads ended first.
        async with PostgresBackend(as_app(server), poll_interval=30) as backend, ffc.subscribe(backend):
            # Where something was just being asked, that finds it out, and is told less.
            for times in range(1, 6):
                if ended_by is None:
                    await own.drop_connections()
                await eventually(lambda times=times: caplog.text.count("reconnecting (") >= times)
                await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
                if words in caplog.text:
                    break
    finally:
        await own.sql("ALTER ROLE app RESET ALL")
    lines = [record.getMessage() for record in caplog.records if "reconnecting" in record.getMessage()]
    assert any(words in line for line in lines), lines
