"""A table of one's own, attached: whatever writes to it, what is told is what the table says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import msgspec
import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.attaching import Definition, Recorded, attach, attach_sql, attached, detach, detach_sql
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds.attaching import REPORTS, TABLE, clean, database, rows, told


@pytest.fixture(scope="module", params=[16, 18], ids=["postgres16", "postgres18"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with database(request.getfixturevalue(f"postgres{request.param}_url"), "attach_tables") as url:
        yield url


async def test_a_job_is_known_waited_for_and_told_with_all_that_was_named(url: str, conn: psycopg.Connection) -> None:
    """Tenant, flow, tags, result; unknown is NotFound; filters see it."""
    attach(url, REPORTS)
    insert = "INSERT INTO app.reports (id, tenant, batch_id, queue_name) VALUES (%s, 'acme', 7, 'mail')"
    async with PostgresBackend(url) as backend:
        id_, flow = ffc.attached_id("reports", 1), ffc.attached_flow_id("reports", 7)
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_completion(backend, id_, timeout=5)
        conn.execute(insert, (1,))
        conn.execute(insert, (2,))
        found = await backend.describe_execution(id_)
        assert found is not None
        assert (found.is_terminal, found.namespace, found.flow_id) == (False, "acme", flow)
        assert found.tags == {"key": "1", "queue": "mail", "attachment": "reports"}
        wanted = ffc.ScannerFilter("acme").with_instance_tag("queue", "mail")
        async with ffc.subscribe(backend, wanted) as stream:
            waiting = asyncio.create_task(ffc.wait_for_completion(backend, id_, timeout=30, result=True))
            everyone = asyncio.create_task(ffc.wait_for_flow(backend, flow, timeout=30))
            await asyncio.sleep(0)
            conn.execute("UPDATE app.reports SET status = 'done', output = 'é' WHERE id = 1")
            done = await waiting
            assert (done.outcome, done.payload_bytes, ffc.attached_key(done.execution_id)) == (
                "success",
                b"\xc3\xa9",
                1,
            )
            conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 2")
            assert sorted(each.outcome for each in (await everyone).values()) == ["failed", "success"]
            got = [await asyncio.wait_for(anext(stream), 30) for _ in range(2)]
            assert [(ffc.attached_key(each.execution_id), each.outcome, each.flow_id) for each in got] == [
                (1, "success", flow),
                (2, "failed", flow),
            ]


def test_every_kind_of_statement(url: str, conn: psycopg.Connection) -> None:
    """Bulk, upserts, COPY, finished at once, again, back and forth, deleted, keys that change, rolled back."""
    attach(url, REPORTS)
    conn.execute("INSERT INTO app.reports (id) SELECT generate_series(1, 50)")
    conn.execute("UPDATE app.reports SET status = 'running'")
    assert told(conn) == []
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id <= 48")
    assert sorted(told(conn)) == sorted((str(n), "success") for n in range(1, 49))
    conn.execute("DELETE FROM ff_completion_event")
    upsert = (
        "INSERT INTO app.reports (id, status) VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET status = excluded.status WHERE reports.status <> excluded.status"
    )
    conn.execute(upsert, (49, "error"))
    conn.execute(upsert, (49, "error"))
    conn.execute(upsert, (51, "cancelled"))
    with conn.cursor().copy("COPY app.reports (id, status) FROM STDIN") as copy:
        copy.write_row((52, "done"))
        copy.write_row((53, "queued"))
    assert told(conn) == [("49", "failed"), ("51", "cancelled"), ("52", "success")]
    # Retried: it runs again, and ends otherwise. The same state once more is no news, nor another column.
    conn.execute("UPDATE app.reports SET status = 'queued' WHERE id = 49")
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 49")
    conn.execute("UPDATE app.reports SET status = 'done', queue_name = 'x' WHERE id = 49")
    conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 49")
    assert told(conn)[3:] == [("49", "success"), ("49", "failed")]
    conn.execute("DELETE FROM ff_completion_event")
    # Deleted: what had finished stays known and is no news; what had not never will.
    conn.execute("DELETE FROM app.reports WHERE id IN (1, 50)")
    assert told(conn) == [("50", "cancelled")]
    # Another key is another job.
    conn.execute("UPDATE app.reports SET id = 99 WHERE id = 53")
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 99")
    assert told(conn)[1:] == [("53", "cancelled"), ("99", "success")]
    conn.execute("DELETE FROM ff_completion_event")
    with conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO app.reports (id, status) VALUES (100, 'done')")
    assert told(conn) == []


def test_a_partitioned_table_and_rows_that_move(url: str, conn: psycopg.Connection) -> None:
    """Through the parent and through a partition; a row that moves has neither gone nor come."""
    conn.execute("DROP TABLE app.reports")
    conn.execute(
        "CREATE TABLE app.reports (id uuid, status text, area text, PRIMARY KEY (id, area)) PARTITION BY LIST (area)"
    )
    for area in "abc":
        conn.execute(f"CREATE TABLE app.reports_{area} PARTITION OF app.reports FOR VALUES IN ('{area}')".encode())
    definition = Definition(name="reports", table="app.reports", key="id", state="status", outcomes={"done": "success"})
    attach(url, definition)
    conn.execute("INSERT INTO app.reports SELECT gen_random_uuid(), 'queued', 'a' FROM generate_series(1, 3)")
    one, two, three = [key for (key,) in rows(conn, "SELECT id::text FROM app.reports ORDER BY id")]
    conn.execute("UPDATE app.reports SET area = 'b' WHERE id = %s", (one,))
    assert told(conn) == []
    conn.execute("UPDATE app.reports SET area = 'c', status = 'done' WHERE id = %s", (one,))
    conn.execute("UPDATE app.reports SET area = 'a' WHERE id = %s", (one,))
    assert told(conn) == [(one, "success")]
    conn.execute("UPDATE app.reports_a SET status = 'done' WHERE id = %s", (two,))
    conn.execute("DELETE FROM app.reports_a WHERE id = %s", (three,))
    assert told(conn)[1:] == [(two, "success"), (three, "cancelled")]
    conn.execute("CREATE TABLE app.reports_d PARTITION OF app.reports FOR VALUES IN ('d')")
    conn.execute("INSERT INTO app.reports VALUES (gen_random_uuid(), 'done', 'd')")
    assert len(told(conn)) == 4
    detach(url, "reports")
    assert rows(conn, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'ff\\_attached%%'") == []


def test_a_history_table(url: str, conn: psycopg.Connection) -> None:
    """A row for each change of state, as pgqueuer's log: the newest says how it stands, also of what was there before."""
    conn.execute("CREATE TABLE app.log (id serial PRIMARY KEY, job int NOT NULL, status text)")
    conn.execute(
        "INSERT INTO app.log (job, status) VALUES (1, 'queued'), (1, 'done'), (2, 'queued'), (2, 'error'), (2, 'queued')"
    )
    definition = Definition(
        name="log",
        table="app.log",
        key="job",
        state="status",
        history="id",
        outcomes={"done": "success", "error": "failed"},
    )
    assert attach(url, definition).jobs == 2
    assert told(conn) == []
    phases = "SELECT raw_fields->'tags'->>'key', lifecycle_phase FROM ff_exec_core ORDER BY 1"
    assert rows(conn, phases) == [("1", "terminal"), ("2", "submitted")]
    conn.execute(
        "INSERT INTO app.log (job, status) VALUES (2, 'done'), (3, 'queued'), (2, 'done'), (1, 'queued'), (1, 'error')"
    )
    assert told(conn) == [("2", "success"), ("1", "failed")]
    conn.execute("DELETE FROM app.log")
    assert len(told(conn)) == 2


def test_a_fault_never_harms_the_job(url: str, conn: psycopg.Connection) -> None:
    """An unknown state, a table of ours that is gone or locked away: a warning, and the job's transaction commits."""
    attach(url, REPORTS)
    warnings: list[str] = []
    conn.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.message_primary or ""))
    conn.execute("INSERT INTO app.reports (id, status) VALUES (1, 'strange')")
    assert warnings == ["ffcompletion: reports: job 1 has the state strange, which no outcome is given for"]
    conn.execute("UPDATE app.reports SET status = 'queued' WHERE id = 1")
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
    assert told(conn) == [("1", "success")]
    warnings.clear()
    conn.execute("ALTER TABLE ff_completion_event RENAME TO away")
    with conn.transaction():
        conn.execute("INSERT INTO app.reports (id, status) VALUES (2, 'done')")
        conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 2")
    conn.execute("ALTER TABLE away RENAME TO ff_completion_event")
    assert len(warnings) == 1
    assert "could not be recorded" in warnings[0]
    assert rows(conn, "SELECT status FROM app.reports WHERE id = 2") == [("done",)]
    # A column that is no more.
    conn.execute("ALTER TABLE app.reports DROP COLUMN output")
    conn.execute("INSERT INTO app.reports (id, status) VALUES (3, 'done')")
    assert "could not be recorded" in warnings[1]


def test_a_worker_needs_no_right_and_runs_nothing_as_us(url: str, conn: psycopg.Connection) -> None:
    """A role with its own table alone announces through it; its casts, operators and temporary tables are never ours."""
    conn.execute("DROP ROLE IF EXISTS attach_worker")
    conn.execute("CREATE ROLE attach_worker LOGIN")
    try:
        conn.execute("GRANT USAGE, CREATE ON SCHEMA app TO attach_worker")
        conn.execute("ALTER TABLE app.reports OWNER TO attach_worker")
        attach(url, REPORTS)
        with psycopg.connect(url, user="attach_worker", autocommit=True) as worker:
            worker.execute("CREATE TEMP TABLE ff_exec_core (x int)")
            worker.execute(
                "CREATE FUNCTION pg_temp.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT current_user'"
            )
            worker.execute("INSERT INTO app.reports (id, tenant) VALUES (1, 'acme')")
            worker.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
            for forbidden in (
                "SELECT * FROM public.ff_exec_core",
                "INSERT INTO public.ff_completion_event DEFAULT VALUES",
                "SELECT public.ff_attached_record('reports', '1', 'failed', NULL, NULL, '{}', NULL, false, false)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    worker.execute(forbidden.encode())
            # A type with a cast to text of its own: read through its output function, never through the cast.
            worker.execute("CREATE TYPE app.mine AS ENUM ('queued', 'done', 'error', 'cancelled')")
            worker.execute(
                "CREATE FUNCTION app.spy(app.mine) RETURNS text LANGUAGE plpgsql AS"
                " $$ BEGIN CREATE TABLE app.pwned_by AS SELECT current_user; RETURN 'done'; END $$"
            )
            worker.execute("CREATE CAST (app.mine AS text) WITH FUNCTION app.spy(app.mine) AS IMPLICIT")
            worker.execute("ALTER TABLE app.reports ALTER status DROP DEFAULT, ALTER tenant TYPE app.mine USING NULL")
            worker.execute("ALTER TABLE app.reports ALTER output TYPE app.mine USING NULL")
        with psycopg.connect(url, user="attach_worker", autocommit=True) as worker:
            worker.execute("INSERT INTO app.reports VALUES (2, 'done', 'queued', 7, 'error', 'mail')")
        assert told(conn) == [("1", "success"), ("2", "success")]
        assert rows(conn, "SELECT to_regclass('app.pwned_by')") == [(None,)]
        found = rows(
            conn, "SELECT result, raw_fields->>'namespace' FROM ff_exec_core WHERE raw_fields->'tags'->>'key' = '2'"
        )
        assert found == [(b"error", "queued")]
    finally:
        clean(url)
        conn.execute("DROP OWNED BY attach_worker")
        conn.execute("DROP ROLE attach_worker")


def test_names_with_quotes_dots_and_63_bytes(url: str, conn: psycopg.Connection) -> None:
    """Whatever Postgres takes as a name works, in every place."""
    odd = 'it\'s "odd" %s {x}.$ff$ é\\'
    table, column, key = (odd + letter * (63 - len(odd.encode())) for letter in "tck")
    conn.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(odd)))
    conn.execute(
        psycopg.sql.SQL("CREATE TABLE {} ({} text PRIMARY KEY, {} text)").format(
            psycopg.sql.Identifier(odd, table), psycopg.sql.Identifier(key), psycopg.sql.Identifier(column)
        )
    )
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (odd, table))
    definition = Definition(
        name=table,
        table=quoted,
        key=key,
        state=column,
        outcomes={odd: "success"},
        pending=("queued",),
        tags={odd: column},
    )
    try:
        attach(url, definition)
        value = psycopg.sql.Literal(odd)
        conn.execute(
            psycopg.sql.SQL("INSERT INTO {} VALUES ({}, {})").format(psycopg.sql.Identifier(odd, table), value, value)
        )
        assert told(conn) == [(odd, "success")]
        assert [each.definition for each in attached(url)] == [definition]
        assert rows(conn, "SELECT ff_attached_id(%s, %s)", table, odd) == [(ffc.attached_id(table, odd),)]
        detach(url, table)
        assert attached(url) == []
    finally:
        conn.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg.sql.Identifier(odd)))


def test_a_schema_whose_name_has_a_line_break(url: str, conn: psycopg.Connection) -> None:
    """It ends no comment in what is run."""
    odd = 'two\nlines "quoted"; SELECT'
    name = psycopg.sql.Identifier(odd)
    conn.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(name))
    conn.execute(psycopg.sql.SQL("CREATE TABLE {}.jobs (id int PRIMARY KEY, status text)").format(name))
    definition = Definition(
        name="lines", table=f"{name.as_string()}.jobs", key="id", state="status", outcomes={"done": "success"}
    )
    try:
        attach(url, definition, schema=odd)
        conn.execute(psycopg.sql.SQL("INSERT INTO {}.jobs VALUES (1, 'done')").format(name))
        found = conn.execute(psycopg.sql.SQL("SELECT outcome FROM {}.ff_completion_event").format(name)).fetchall()
        assert found == [("success",)]
        detach(url, "lines", schema=odd)
        assert attached(url, schema=odd) == []
    finally:
        conn.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(name))


async def test_what_is_there_already_is_recorded_and_not_announced(url: str, conn: psycopg.Connection) -> None:
    """In batches, beside writers; a wait for it answers; attaching again adds nothing."""
    conn.execute(
        "INSERT INTO app.reports (id, status, output) SELECT n,"
        " (ARRAY['done', 'error', 'cancelled', 'queued'])[abs(n) % 4 + 1], n FROM generate_series(-3000, 8999) n"
    )
    ended = threading.Event()
    seen: list[tuple[int, int]] = []

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as writer:
            number = 0
            while not ended.is_set():
                number += 1
                writer.execute("UPDATE app.reports SET status = 'done' WHERE id = %s", (number * 4 + 3,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = await asyncio.to_thread(attach, url, REPORTS, progress=lambda done, about: seen.append((done, about)))
        assert found == Recorded(jobs=12_000)
    finally:
        ended.set()
        writer.join()
    assert [done for done, _ in seen] == [5_000, 10_000, 12_000]
    assert {outcome for _, outcome in told(conn)} <= {"success"}
    wrong = rows(
        conn,
        "SELECT count(*) FROM app.reports j LEFT JOIN ff_exec_core c"
        " ON c.execution_id = ff_attached_uuid('reports', j.id::text) AND c.partition_key = get_byte(uuid_send(execution_id), 15)"
        " WHERE (j.status <> 'queued') IS DISTINCT FROM (c.lifecycle_phase <> 'submitted')",
    )
    assert wrong == [(0,)]
    assert (attached(url)[0].jobs, attached(url)[0].working) == (12_000, True)
    before = len(told(conn))
    assert attach(url, REPORTS) == Recorded(jobs=12_000)
    assert (len(told(conn)), attached(url)[0].jobs) == (before, 12_000)
    async with PostgresBackend(url) as backend:
        for key, outcome in ((4, "success"), (5, "failed"), (6, "cancelled")):
            done = await ffc.wait_for_completion(backend, ffc.attached_id("reports", key), timeout=20, result=True)
            assert (done.outcome, done.payload_bytes) == (outcome, str(key).encode())


async def test_the_printed_script_does_the_same(url: str, conn: psycopg.Connection) -> None:
    """Attach and detach by psql, so to say; twice; and nothing is left."""
    listing = (
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL"
        " SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
    )
    before = rows(conn, listing)
    conn.execute("INSERT INTO app.reports (id, status) VALUES (1, 'done'), (2, 'queued')")
    for _ in range(2):
        conn.execute(attach_sql(REPORTS).encode())
    (found,) = attached(url)
    assert found.definition == REPORTS
    assert (found.jobs, found.finished, found.working) == (2, 1, True)
    conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 2")
    assert told(conn) == [("2", "failed")]
    conn.execute("ALTER TABLE app.reports DISABLE TRIGGER ALL")
    assert not attached(url)[0].working
    for _ in range(2):
        if attached(url):
            conn.execute(detach_sql(REPORTS).encode())
    assert rows(conn, listing) == before
    assert (
        rows(conn, "SELECT count(*) FROM ff_exec_core")
        == rows(conn, "SELECT count(*) FROM ff_completion_event")
        == [(0,)]
    )
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 2")


def test_detaching_one_leaves_the_other_and_what_is_gone_can_be_detached(url: str, conn: psycopg.Connection) -> None:
    """Two attachments of one table; a dropped table; a name that is not attached."""
    attach(url, REPORTS)
    attach(
        url, msgspec.structs.replace(REPORTS, name="other", outcomes={"done": "skipped"}, pending=("queued", "error"))
    )
    conn.execute("INSERT INTO app.reports (id, status) VALUES (1, 'done')")
    assert sorted(outcome for _, outcome in told(conn)) == ["skipped", "success"]
    detach(url, "reports")
    assert [outcome for _, outcome in told(conn)] == ["skipped"]
    conn.execute("DROP TABLE app.reports")
    assert [each.working for each in attached(url)] == [False]
    detach(url, "other")
    assert attached(url) == []
    with pytest.raises(ffc.NotFound):
        detach(url, "reports")


def test_a_table_that_is_renamed_moves_or_is_put_aside(url: str, conn: psycopg.Connection) -> None:
    """It is known by its triggers; attached again by name alone; and detached whole, wherever its triggers are."""
    attach(url, REPORTS)
    conn.execute('ALTER TABLE app.reports RENAME TO "Old reports"')
    conn.execute("CREATE SCHEMA IF NOT EXISTS aside")
    conn.execute('ALTER TABLE app."Old reports" SET SCHEMA aside')
    conn.execute("INSERT INTO aside.\"Old reports\" (id, status) VALUES (1, 'done')")
    (found,) = attached(url)
    assert (found.working, found.jobs, found.definition.table) == (True, 1, 'aside."Old reports"')
    attach(url, found.definition)
    assert [(each.working, each.definition.table) for each in attached(url)] == [(True, 'aside."Old reports"')]
    conn.execute(TABLE)
    with pytest.raises(ffc.Validation, match=r'is attached to aside\."Old reports" already'):
        attach(url, REPORTS)
    detach(url, "reports")
    assert (
        rows(conn, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'ff_attached%%_%%_%%'") == []
    )
    # A new one in its place, the old one put aside with its triggers.
    attach(url, REPORTS)
    conn.execute("ALTER TABLE app.reports RENAME TO aside")
    conn.execute(TABLE)
    assert [each.working for each in attached(url)] == [False]
    attach(url, REPORTS)
    assert [each.working for each in attached(url)] == [True]
    detach(url, "reports")
    assert attached(url) == []
    conn.execute("INSERT INTO app.aside (id, status) VALUES (1, 'done')")
    conn.execute("DROP SCHEMA aside CASCADE")


def test_another_table_of_results(url: str, conn: psycopg.Connection) -> None:
    """What is written to the one before is no job's result any more."""
    for name in "one", "two":
        conn.execute(f"CREATE TABLE app.{name} (job bigint PRIMARY KEY, value text)".encode())
    beside = msgspec.structs.replace(REPORTS, result_table="app.one", result_key="job", result="value")
    attach(url, beside)
    conn.execute("INSERT INTO app.reports (id) VALUES (1)")
    attach(url, msgspec.structs.replace(beside, result_table="app.two"))
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
    conn.execute("INSERT INTO app.two VALUES (1, 'new')")
    conn.execute("INSERT INTO app.one VALUES (1, 'old')")
    assert rows(conn, "SELECT result FROM ff_exec_core") == [(b"new",)]


def test_a_column_that_is_renamed_is_no_working_attachment(url: str, conn: psycopg.Connection) -> None:
    """Each end is a warning then: it is said, and the ends are told when it is attached with the new name."""
    attach(url, REPORTS)
    conn.execute("ALTER TABLE app.reports RENAME queue_name TO line")
    conn.execute("INSERT INTO app.reports (id, status) VALUES (1, 'done')")
    assert [(each.working, each.jobs) for each in attached(url)] == [(False, 0)]
    with pytest.raises(ffc.Validation, match=r"no column 'queue_name'; it has id, status, .*line"):
        attach(url, REPORTS)
    assert attach(url, msgspec.structs.replace(REPORTS, tags={"queue": "line"})).missed == 1
    assert [(each.working, each.finished) for each in attached(url)] == [(True, 1)]


def test_whoever_attached_it_may_write_no_more(url: str, conn: psycopg.Connection) -> None:
    """The triggers run with his rights: without them each end is a warning, and it is said that they do not work."""
    conn.execute("DROP ROLE IF EXISTS attach_leaver")
    conn.execute("CREATE ROLE attach_leaver LOGIN")
    try:
        conn.execute("GRANT ALL ON SCHEMA app, public TO attach_leaver")
        conn.execute("GRANT ALL ON ff_completion_event, ff_exec_core TO attach_leaver")
        conn.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO attach_leaver")
        conn.execute("ALTER TABLE app.reports OWNER TO attach_leaver")
        attach(psycopg.conninfo.make_conninfo(url, user="attach_leaver"), REPORTS)
        assert [each.working for each in attached(url)] == [True]
        conn.execute("INSERT INTO app.reports (id) VALUES (1)")
        conn.execute("REVOKE ALL ON ff_completion_event FROM attach_leaver")
        conn.execute("UPDATE app.reports SET status = 'done'")
        assert [each.working for each in attached(url)] == [False]
        conn.execute("GRANT ALL ON ff_completion_event TO attach_leaver")
        assert attach(psycopg.conninfo.make_conninfo(url, user="attach_leaver"), REPORTS).missed == 1
        assert [each.working for each in attached(url)] == [True]
    finally:
        detach(url, "reports")
        conn.execute("DROP OWNED BY attach_leaver CASCADE")
        conn.execute("DROP ROLE attach_leaver")


def test_partitions_that_are_partitioned_themselves(url: str, conn: psycopg.Connection) -> None:
    """Each level has a key of its own, which every unique index has to hold."""
    conn.execute("DROP TABLE app.reports")
    conn.execute("CREATE TABLE app.reports (id bigint, day int, tenant text, status text, batch_id int, output text,"
                 " queue_name text, PRIMARY KEY (id, day, tenant)) PARTITION BY RANGE (day)")  # fmt: skip
    conn.execute("CREATE TABLE app.early PARTITION OF app.reports FOR VALUES FROM (0) TO (10)")
    # Its columns have other numbers than the parent's.
    conn.execute("CREATE TABLE app.late (gone int, tenant text, status text, id bigint, day int, batch_id int, output text,"
                 " queue_name text) PARTITION BY LIST (tenant)")  # fmt: skip
    conn.execute(
        "ALTER TABLE app.late DROP gone, ALTER id SET NOT NULL, ALTER day SET NOT NULL, ALTER tenant SET NOT NULL"
    )
    conn.execute("ALTER TABLE app.reports ATTACH PARTITION app.late FOR VALUES FROM (10) TO (20)")
    conn.execute("CREATE TABLE app.late_rest PARTITION OF app.late DEFAULT")
    conn.execute(
        "INSERT INTO app.reports (id, day, tenant, status) VALUES (1, 1, 'a', 'queued'), (2, 11, 'b', 'queued')"
    )
    attach(url, REPORTS)
    conn.execute("UPDATE app.reports SET day = 12, tenant = 'c' WHERE id = 1")
    conn.execute("UPDATE app.reports SET status = 'done' WHERE id = 1")
    conn.execute("UPDATE app.reports SET status = 'error', day = 2 WHERE id = 2")
    assert told(conn) == [("1", "success"), ("2", "failed")]
    with pytest.raises(ffc.Validation, match="not unique"):
        attach(url, msgspec.structs.replace(REPORTS, name="others", key="day"))
