"""Attached again: what the triggers have missed is found, and each end is told once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import ffcompletion as ffc
from ffcompletion import producers
from ffcompletion.attaching import Definition, Recorded, attach, attach_sql, attached, detach
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds.attaching import REPORTS, clean, database, rows, told


@pytest.fixture(scope="module")
def server(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, "attach_again") as url:
        yield url


@pytest.fixture
def conn(conn: psycopg.Connection) -> psycopg.Connection:
    """With jobs in the table."""
    conn.execute("INSERT INTO app.reports (status) SELECT unnest(ARRAY['queued', 'running', 'queued', 'done', 'done'])")
    return conn


def records(conn: psycopg.Connection) -> dict[str, tuple[str, str | None]]:
    found = rows(
        conn, "SELECT raw_fields->'tags'->>'key', lifecycle_phase, raw_fields->>'attached_outcome' FROM ff_exec_core"
    )
    return {key: (phase, outcome) for key, phase, outcome in found}


def agree(conn: psycopg.Connection, definition: Definition = REPORTS) -> None:
    """Every job's record says what its row does."""
    found = records(conn)
    for key, state in rows(conn, "SELECT id::text, status FROM app.reports"):
        outcome = definition.outcomes.get(state)
        phase = "submitted" if outcome is None else "cancelled" if outcome == "cancelled" else "terminal"
        assert found[key] == (phase, outcome), key


def by_function(url: str) -> int:
    return attach(url, REPORTS).missed


def by_script(url: str) -> int:
    """What is printed, run as it is; it counts nothing."""
    with psycopg.connect(url, autocommit=True) as conn:
        before = len(told(conn))
        conn.execute(attach_sql(REPORTS).encode())
        return len(told(conn)) - before


DISABLED = "ALTER TABLE app.reports DISABLE TRIGGER USER"
DROPPED = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'app.reports'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('DROP TRIGGER %I ON app.reports', name);
    END LOOP;
END $$
"""
REPLICA = "SET session_replication_role = replica"


@pytest.mark.parametrize("again", [by_function, by_script])
@pytest.mark.parametrize("off", [DISABLED, DROPPED, REPLICA], ids=["disabled", "dropped", "replica"])
def test_ends_that_no_trigger_saw_are_told_once(
    url: str, conn: psycopg.Connection, off: str, again: Callable[[str], int]
) -> None:
    """Known jobs that ended, jobs that came and ended, that ended otherwise, that run again, that are gone; the rest not."""
    attach(url, REPORTS)
    conn.execute(off.encode())
    conn.execute("UPDATE app.reports SET status = 'done', output = 'one' WHERE id = 1")
    conn.execute("UPDATE app.reports SET status = 'cancelled' WHERE id = 2")
    conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 4")
    conn.execute("UPDATE app.reports SET status = 'queued' WHERE id = 5")
    conn.execute("DELETE FROM app.reports WHERE id = 3")
    conn.execute("INSERT INTO app.reports (id, status, tenant) VALUES (6, 'done', 'acme'), (7, 'queued', 'acme')")
    conn.execute("RESET session_replication_role")
    assert told(conn) == []
    assert again(url) == 5
    assert sorted(told(conn)) == [
        ("1", "success"), ("2", "cancelled"), ("3", "skipped"), ("4", "failed"), ("6", "success"),
    ]  # fmt: skip
    agree(conn)
    assert again(url) == 0
    assert attached(url)[0].working
    conn.execute("UPDATE app.reports SET status = 'done' WHERE status = 'queued'")
    assert sorted(told(conn)[5:]) == [("5", "success"), ("7", "success")]
    result = rows(conn, "SELECT result FROM ff_exec_core WHERE raw_fields->'tags'->>'key' = '1'")
    assert result == [(b"one",)]
    tenant = rows(conn, "SELECT namespace FROM ff_completion_event WHERE namespace IS NOT NULL")
    assert tenant == [("acme",), ("acme",)]


async def test_whoever_waits_and_whoever_follows_are_told(url: str, conn: psycopg.Connection) -> None:
    """A wait that began before, and a stream that is open."""
    attach(url, REPORTS)
    conn.execute(DISABLED)
    conn.execute("UPDATE app.reports SET status = 'done', output = 'é' WHERE id = 1")
    async with PostgresBackend(url) as backend, ffc.subscribe(backend) as stream:
        id_ = ffc.attached_id("reports", 1)
        with pytest.raises(TimeoutError):
            await ffc.wait_for_completion(backend, id_, timeout=0)
        attach(url, REPORTS)
        assert (await anext(stream)).execution_id == id_
        assert (await ffc.wait_for_completion(backend, id_, timeout=0, result=True)).payload_bytes == b"\xc3\xa9"


async def test_what_was_pruned_is_no_news(url: str, conn: psycopg.Connection) -> None:
    """Its record is gone and its row is not: recorded again, and not told again."""
    attach(url, REPORTS)
    conn.execute("UPDATE app.reports SET status = 'done'")
    assert len(told(conn)) == 3
    conn.execute("UPDATE ff_exec_core SET terminal_at_ms = 1, created_at_ms = 1")
    conn.execute("UPDATE ff_completion_event SET committed_at_ms = 1")
    assert await producers.prune(url, timedelta(days=1)) > 5
    assert rows(conn, "SELECT count(*) FROM ff_exec_core") == [(0,)]
    before = len(told(conn))
    assert attach(url, REPORTS) == Recorded(jobs=5)
    assert len(told(conn)) == before
    agree(conn)
    # From here on every job has its record again, until somebody empties the table.
    conn.execute(DISABLED)
    conn.execute("INSERT INTO app.reports (id, status) VALUES (6, 'done')")
    assert attach(url, REPORTS).missed == 1
    conn.execute("TRUNCATE ff_exec_core")
    assert attach(url, REPORTS) == Recorded(jobs=6)


def test_a_first_time_that_left_things_out_is_no_news_either(url: str, conn: psycopg.Connection) -> None:
    """Attached without recording: what had finished is recorded the next time, and what ended since was told."""
    attach(url, REPORTS, record=False)
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
    assert attach(url, REPORTS) == Recorded(jobs=5)
    assert told(conn) == [("1", "success")]
    agree(conn)


def test_another_name_for_an_outcome_is_no_end(url: str, conn: psycopg.Connection) -> None:
    """Attached again with other outcomes: records follow, nothing is told twice; what was missed is told by its new name."""
    attach(url, REPORTS)
    conn.execute(DISABLED)
    conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 1")
    other = msgspec.structs.replace(REPORTS, outcomes={"done": "skipped", "error": "expired", "cancelled": "cancelled"})
    assert attach(url, other) == Recorded(jobs=5, missed=1)
    assert told(conn) == [("1", "expired")]
    agree(conn, other)


def test_a_fault_in_a_trigger_is_mended(url: str, conn: psycopg.Connection) -> None:
    """An end that was a warning in the server's log is told by attaching again."""
    attach(url, REPORTS)
    conn.execute("ALTER TABLE ff_completion_event RENAME TO away")
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
    conn.execute("ALTER TABLE away RENAME TO ff_completion_event")
    assert told(conn) == []
    assert attach(url, REPORTS).missed == 1
    assert told(conn) == [("1", "success")]


def test_without_the_right_to_notice_what_is_pruned(url: str, conn: psycopg.Connection) -> None:
    """A role with grants alone on our tables: known jobs are told, unknown ones are recorded; and detached without a trace."""
    conn.execute("DROP ROLE IF EXISTS attach_granted")
    conn.execute("CREATE ROLE attach_granted LOGIN")
    try:
        conn.execute("GRANT USAGE, CREATE ON SCHEMA public, app TO attach_granted")
        conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ff_exec_core, ff_completion_event TO attach_granted")
        conn.execute("ALTER TABLE app.reports OWNER TO attach_granted")
        mine = make_conninfo(url, user="attach_granted")
        attach(mine, REPORTS)
        conn.execute(DISABLED)
        conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
        conn.execute("INSERT INTO app.reports (id, status) VALUES (6, 'done')")
        assert attach(mine, REPORTS) == Recorded(jobs=6, missed=1)
        assert told(conn) == [("1", "success")]
        agree(conn)
        detach(mine, "reports")
        assert rows(conn, "SELECT proname FROM pg_proc WHERE starts_with(proname::text, 'ff_attached')") == []
    finally:
        clean(url)
        conn.execute("DROP OWNED BY attach_granted")
        conn.execute("DROP ROLE attach_granted")


def test_a_history_is_made_up_for_too(url: str, conn: psycopg.Connection) -> None:
    """The newest row says how it stands."""
    conn.execute("CREATE TABLE app.log (id serial PRIMARY KEY, job int NOT NULL, status text)")
    conn.execute("INSERT INTO app.log (job, status) VALUES (1, 'queued'), (2, 'queued'), (3, 'done')")
    definition = Definition(
        name="log",
        table="app.log",
        key="job",
        state="status",
        history="id",
        outcomes={"done": "success", "error": "failed"},
    )
    attach(url, definition)
    conn.execute("ALTER TABLE app.log DISABLE TRIGGER USER")
    conn.execute(
        "INSERT INTO app.log (job, status)"
        " VALUES (1, 'done'), (2, 'error'), (2, 'queued'), (3, 'queued'), (3, 'error'), (4, 'done')"
    )
    assert attach(url, definition) == Recorded(jobs=4, missed=3)
    assert sorted(told(conn)) == [("1", "success"), ("3", "failed"), ("4", "success")]


def test_beside_workers_that_go_on(url: str, conn: psycopg.Connection) -> None:
    """Ten thousand missed ends while others finish and retry: each job's last word is told, and none twice in a row."""
    conn.execute("INSERT INTO app.reports (id, status) SELECT n, 'queued' FROM generate_series(1000, 12999) n")
    attach(url, REPORTS)
    conn.execute(DISABLED)
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id BETWEEN 1000 AND 10999")
    ended, harmed = threading.Event(), list[str]()

    def work() -> None:
        """Backwards through the keys, several in a transaction: against the order in which they are recorded."""
        with psycopg.connect(url) as worker:
            worker.add_notice_handler(lambda diagnostic: harmed.append(diagnostic.message_primary or ""))
            top = 12_999
            while not ended.is_set() and top > 1_100:
                with worker.transaction():
                    for key in range(top, top - 50, -7):
                        worker.execute("UPDATE app.reports SET status = 'queued' WHERE id = %s", (key,))
                        worker.execute("UPDATE app.reports SET status = 'error' WHERE id = %s", (key,))
                top -= 50

    worker = threading.Thread(target=work)
    worker.start()
    try:
        attach(url, REPORTS)
    finally:
        ended.set()
        worker.join()
    assert harmed == []
    agree(conn)
    last: dict[str, str] = {}
    for key, outcome in told(conn):
        # A retry in between tells the same end again, of those alone that were retried.
        assert last.get(key) != outcome, key
        last[key] = outcome
    finished = rows(conn, "SELECT id::text, status FROM app.reports WHERE status <> 'queued' AND id >= 1000")
    assert last == {key: REPORTS.outcomes[state] for key, state in finished}
