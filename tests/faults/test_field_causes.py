"""The cause that is told is the true one: why a wait is not known, and why a session ended."""

from __future__ import annotations

import logging
from pathlib import Path

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend, supervisor
from ffcompletion.backends.postgres.errors import LastWords
from tests.faults.test_field_postgres import as_app
from tests.worlds import PostgresWorld, done, eventually, first
from tests.worlds.servers import PASSWORD, pgbouncer

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


# All of them, or none that waits for notifications.
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ffcompletion'"
_END_READING = f"{_END} AND query NOT LIKE 'LISTEN%'"
# Those alone that lie idle between questions about records.
_END_LOOKING = f"{_END} AND query LIKE '%raw_fields%'"


@pytest.mark.parametrize(
    ("poll_interval", "setting", "end", "words"),
    [
        (0.2, "RESET ALL", _END_READING, "administrator command"),
        (0.2, "RESET ALL", _END, "administrator command"),
        (30, "RESET ALL", _END, "administrator command"),
    ],
    ids=["reading is ended", "both are", "both are, and nothing is read"],
)
async def test_the_log_says_why_the_server_ended_a_session(
    own: PostgresWorld,
    server: embedded.Server,
    caplog: pytest.LogCaptureFixture,
    poll_interval: float,
    setting: str,
    end: str,
    words: str,
) -> None:
    """What it said last, not that the connection was closed unexpectedly, whichever connection finds out first."""
    caplog.set_level(logging.INFO, "ffcompletion")
    try:
        async with PostgresBackend(as_app(server), poll_interval=poll_interval) as backend, ffc.subscribe(backend):
            await own.sql(f"ALTER ROLE app {setting}")
            await own.sql(end)
            await eventually(lambda: "reconnecting (" in caplog.text and words in caplog.text)
    finally:
        await own.sql("ALTER ROLE app RESET ALL")
    assert "unexpectedly" not in caplog.text


async def test_what_was_connected_under_another_setting_is_not_kept(
    own: PostgresWorld, server: embedded.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A role's search path is wrong for a while: what asks for records goes on once it is right again."""
    try:
        async with (
            PostgresBackend(as_app(server), poll_interval=0.2) as backend,
            ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True) as stream,
        ):
            items = [done(namespace="a", result=b"x") for _ in range(3)]
            await own.announce(items[0])
            assert (await first(stream)).execution_id == items[0].execution_id
            await own.sql("ALTER ROLE app SET search_path = ''")
            # What is under way is to be connected to anew, and what listens to go on for long enough to bring work.
            await own.announce(items[1])
            await own.sql(_END_LOOKING)
            await own.announce(items[2])
            await eventually(lambda: "UndefinedTable" in caplog.text)
            await own.sql("ALTER ROLE app RESET ALL")
            for item in items[1:]:
                assert (await first(stream)).execution_id == item.execution_id
    finally:
        await own.sql("ALTER ROLE app RESET ALL")


async def test_a_pooler_that_lets_its_clients_wait_is_not_taken_for_a_server_that_cannot_be_reached(
    server: embedded.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection, and all its sessions are in use: both are said."""
    monkeypatch.setattr(supervisor, "_READ_TIMEOUT_S", 0.3)
    with pgbouncer(server.url, tmp_path, default_pool_size=1) as url, psycopg.connect(url) as holding:
        holding.execute("SELECT 1")
        async with PostgresBackend(url) as backend:
            with pytest.raises(ffc.Transport, match=r"connected, but .* a pooler .* gave no answer within 0\.3 s"):
                await backend.subscribe_completions()


async def test_last_words_are_heard_where_nothing_is_asked_and_no_longer_when_it_is_given_back(
    own: PostgresWorld,
) -> None:
    """They stand in for an error that says less, and for no other."""
    heard, given_back = [await own.connect() for _ in range(2)]
    words, none = LastWords(heard), LastWords(given_back)
    none.detach()
    none.detach()
    less, more = psycopg.OperationalError("consuming input failed"), psycopg.errors.QueryCanceled("a limit")
    for conn in (heard, given_back):
        await own.sql(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")
        with pytest.raises(psycopg.OperationalError):
            while True:
                conn.pgconn.consume_input()
                conn.pgconn.notifies()
        conn.pgconn.finish()
    assert isinstance(words.instead_of(less), psycopg.errors.AdminShutdown)
    assert words.instead_of(more) is more
    assert words.instead_of(own_error := ValueError()) is own_error
    assert none.instead_of(less) is less
