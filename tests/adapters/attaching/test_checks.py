"""What cannot be attached is refused with a clear error, and nothing has been changed by then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.attaching import Definition, attach, attach_sql, attached, detach, load_preset, preset, preset_names
from tests.worlds.attaching import clean, database, rows

JOBS = Definition(name="jobs", table="app.jobs", key="id", state="status", outcomes={"done": "success"})
TABLE = """
CREATE TABLE app.jobs (id int PRIMARY KEY, status text, code int, maybe int UNIQUE, at timestamptz NOT NULL UNIQUE,
    low int NOT NULL, UNIQUE (low, code));
CREATE UNIQUE INDEX ON app.jobs (low) WHERE code > 0;
CREATE VIEW app.seen AS SELECT * FROM app.jobs;
CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.jobs;
CREATE TYPE app.mood AS ENUM ('fine', 'odd', 'done');
CREATE TABLE app.moods (id int PRIMARY KEY, status app.mood);
CREATE TABLE app.parent (id int PRIMARY KEY, status text) PARTITION BY RANGE (id);
CREATE TABLE app.part PARTITION OF app.parent DEFAULT;
CREATE TABLE app.kin (id int PRIMARY KEY, status text);
CREATE TABLE app.heir () INHERITS (app.kin);
CREATE TABLE app.kinds (id int PRIMARY KEY, status text, json json, place point, done boolean, code int, padded char(6),
    short varchar(3), made text GENERATED ALWAYS AS (lower(status)) VIRTUAL);
"""


@pytest.fixture(scope="module")
def server(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, "attach_refused") as url:
        yield url


@pytest.fixture
def conn(server: str) -> Iterator[psycopg.Connection]:
    clean(server)
    with psycopg.connect(server, autocommit=True) as made:
        made.execute(TABLE)
        made.execute("CREATE FOREIGN DATA WRAPPER nothing")
        made.execute("CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing")
        made.execute("CREATE FOREIGN TABLE app.far (id int, status text) SERVER nowhere")
        yield made
        made.execute("DROP FOREIGN DATA WRAPPER nothing CASCADE")


def everything(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return rows(
        conn,
        "SELECT oid, proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT oid, relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT oid, tgname::text FROM pg_trigger ORDER BY 1, 2",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "app.nothing"}, "app.nothing is not there"),
        ({"table": "nowhere.jobs"}, "nowhere.jobs is not there; there is app.jobs"),
        ({"table": "app.JOBS"}, "there is app.jobs"),
        ({"table": "a.b.c"}, "table or schema.table"),
        ({"table": 'app."x'}, "table or schema.table"),
        ({"table": ""}, "table or schema.table"),
        ({"table": "app." + "x" * 64}, "1 to 63 bytes"),
        ({"table": "app.seen"}, "is a view"),
        ({"table": "app.kept"}, "is a materialized view"),
        ({"table": "app.far"}, "is a foreign table"),
        ({"table": "app.part"}, "is a partition"),
        ({"table": "public.ff_exec_core", "key": "execution_id", "state": "public_state"}, "is no table of jobs"),
        ({"table": "pg_catalog.pg_class", "key": "oid", "state": "relname"}, "is no table of jobs"),
        ({"key": "nope"}, "no column 'nope'; it has id, status"),
        ({"tags": {"queue": "queue_name"}}, "no column 'queue_name'"),
        ({"key": "code"}, "code may be null"),
        ({"key": "maybe"}, "maybe may be null"),
        ({"key": "low"}, "low is not unique"),
        ({"key": "at"}, "a key is a whole number, a UUID or a text"),
        ({"outcomes": {}}, "at least one state"),
        (
            {"outcomes": {"error": "failed"}},
            "no outcome is given for 'done'.*the table has 'done', 'queued', 'strange'",
        ),
        ({"pending": ("queued",)}, "no outcome is given for 'strange'"),
        ({"table": "app.moods"}, "no outcome is given for 'fine', 'odd'"),
        ({"table": "app.moods", "outcomes": {"finished": "success"}}, "never 'finished'; it may be fine, odd, done"),
        ({"table": "app.kin"}, "has rows in app.heir"),
        ({"table": "app.kinds", "state": "json"}, "json is never 'done': its type is json"),
        ({"table": "app.kinds", "state": "place"}, "place is never 'done': its type is point"),
        ({"table": "app.kinds", "state": "made"}, r"made is a virtual generated column.* STORED"),
        ({"table": "app.kinds", "tags": {"made": "made"}}, "made is a virtual generated column"),
        ({"table": "app.kinds", "state": "done"}, "done is never 'done': its type is boolean"),
        ({"table": "app.kinds", "state": "done", "outcomes": {"true": "success"}}, "as boolean it is 't'"),
        ({"table": "app.kinds", "state": "done", "outcomes": {"t": "success"}}, "no outcome is given for 'f'"),
        ({"table": "app.kinds", "state": "code"}, "code is never 'done': its type is integer"),
        ({"table": "app.kinds", "state": "code", "outcomes": {"02": "failed"}}, "never '02': as integer it is '2'"),
        ({"table": "app.kinds", "state": "padded"}, r"as character\(6\) it is 'done  '"),
        ({"table": "app.kinds", "state": "short", "pending": ("late",)}, "never 'done'"),
        ({"name": "a\0b"}, "NUL"),
    ],
)
def test_refused_by_name_before_anything_is_changed(
    server: str, conn: psycopg.Connection, changes: dict[str, Any], message: str
) -> None:
    """Each fault is told with what there is instead."""
    conn.execute("INSERT INTO app.jobs VALUES (1, 'done', 1, 1, now(), 1), (2, 'queued', 2, 2, 'today', 2)")
    conn.execute("INSERT INTO app.jobs VALUES (3, 'strange', 3, 3, 'tomorrow', 3)")
    before = everything(conn)
    with pytest.raises(ffc.EngineError, match=message):
        attach(server, msgspec.structs.replace(JOBS, **changes))
    assert everything(conn) == before


@pytest.mark.parametrize(
    ("made", "unique"),
    [
        ("CREATE UNIQUE INDEX ON {} (n) INCLUDE (other)", True),
        ("ALTER TABLE {} ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", True),
        ("CREATE UNIQUE INDEX ON {} (other) INCLUDE (n)", False),
        ("CREATE UNIQUE INDEX ON {} (n, other)", False),
        ("CREATE UNIQUE INDEX ON {} (n, lower(status))", False),
        ("CREATE INDEX ON {} (n)", False),
        # In a partitioned table the partition key is part of each unique index; and may be all of it.
        ("CREATE UNIQUE INDEX ON app.split (n, place)", True),
        ("CREATE UNIQUE INDEX ON app.split (n, place, other)", False),
        ("CREATE UNIQUE INDEX ON app.split (place) INCLUDE (n)", False),
    ],
)
def test_which_unique_index_makes_a_key(server: str, conn: psycopg.Connection, made: str, unique: bool) -> None:
    """Without one, two rows would be one job, and the end of the one would be told of as that of the other."""
    columns = "(n int NOT NULL, other int NOT NULL, place int NOT NULL, status text)"
    conn.execute(f"CREATE TABLE app.loose {columns}".encode())
    conn.execute(f"CREATE TABLE app.split {columns} PARTITION BY LIST (place)".encode())
    conn.execute(made.format("app.loose").encode())
    jobs = msgspec.structs.replace(JOBS, key="n", table="app.split" if "split" in made else "app.loose")
    if unique:
        attach(server, jobs)
    else:
        with pytest.raises(ffc.Validation, match="n is not unique"):
            attach(server, jobs)


def test_an_index_whose_making_failed_makes_no_key(server: str, conn: psycopg.Connection) -> None:
    """It stays behind, unique by name, in a table that has duplicates."""
    conn.execute("CREATE TABLE app.twice (n int NOT NULL, status text)")
    conn.execute("INSERT INTO app.twice VALUES (1, 'done'), (1, 'done')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY ON app.twice (n)")
    with pytest.raises(ffc.Validation, match="n is not unique"):
        attach(server, msgspec.structs.replace(JOBS, key="n", table="app.twice"))


def test_another_table_under_the_same_name(server: str, conn: psycopg.Connection) -> None:
    """Refused; the first one goes on."""
    attach(server, JOBS)
    before = everything(conn)
    with pytest.raises(ffc.Validation, match=r"'jobs' is attached to app\.jobs already"):
        attach(server, msgspec.structs.replace(JOBS, table="app.parent"))
    assert everything(conn) == before
    conn.execute("INSERT INTO app.jobs VALUES (1, 'done', 1, 1, now(), 1)")
    assert [each.finished for each in attached(server)] == [1]


def test_the_same_name_from_another_schema(server: str, conn: psycopg.Connection) -> None:
    """The table's triggers would run the one's function or the other's: refused, with where it is attached from."""
    conn.execute("DROP SCHEMA IF EXISTS other CASCADE")
    conn.execute("CREATE SCHEMA other")
    try:
        attach(server, JOBS)
        before = everything(conn)
        with pytest.raises(ffc.Validation, match="'jobs' is attached from the schema public already"):
            attach(server, JOBS, schema="other")
        assert everything(conn) == before
        assert [each.working for each in attached(server)] == [True]
        attach(server, msgspec.structs.replace(JOBS, name="others"), schema="other")
        assert [each.working for each in attached(server, schema="other")] == [True]
        assert [each.working for each in attached(server)] == [True]
    finally:
        conn.execute("DROP SCHEMA other CASCADE")


def test_a_table_that_belongs_to_somebody_else(server: str, conn: psycopg.Connection) -> None:
    """The owner is named. Neither may our tables be written to by whoever has no right to."""
    conn.execute("DROP ROLE IF EXISTS attach_other")
    conn.execute("CREATE ROLE attach_other LOGIN")
    try:
        conn.execute("GRANT ALL ON SCHEMA app, public TO attach_other")
        conn.execute("GRANT ALL ON app.jobs TO attach_other")
        mine = psycopg.conninfo.make_conninfo(server, user="attach_other")
        before = everything(conn)
        with pytest.raises(ffc.Unavailable, match="may not write to ff_completion_event"):
            attach(mine, JOBS)
        conn.execute("GRANT ALL ON ff_completion_event, ff_exec_core TO attach_other")
        with pytest.raises(ffc.Unavailable, match=r"app\.jobs belongs to postgres"):
            attach(mine, JOBS)
        assert everything(conn) == before
    finally:
        conn.execute("DROP OWNED BY attach_other")
        conn.execute("DROP ROLE attach_other")


def test_beside_the_engines_own_tables(postgres18_url: str) -> None:
    """Refused, with the way out: another schema."""
    with psycopg.connect(postgres18_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE attach_beside (id int PRIMARY KEY, status text)")
        try:
            before = everything(conn)
            with pytest.raises(ffc.Unavailable, match=r"FlowFabric's own tables .* use another with --schema"):
                attach(postgres18_url, msgspec.structs.replace(JOBS, table="attach_beside"))
            assert everything(conn) == before
            with pytest.raises(ffc.Validation, match="'nowhere' is not there"):
                attach(postgres18_url, JOBS, schema="nowhere")
        finally:
            conn.execute("DROP TABLE attach_beside")


def test_a_busy_table_is_not_queued_behind(
    server: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that writes and does not end: attaching gives up, and no writer waited longer than a moment."""
    monkeypatch.setattr("ffcompletion.attaching.patience.TRIES", 2)
    monkeypatch.setattr("ffcompletion.attaching.server.LOCK_MS", 100)
    with psycopg.connect(server) as writer:
        writer.execute("INSERT INTO app.jobs VALUES (1, 'done', 1, 1, now(), 1)")
        with pytest.raises(
            ffc.Unavailable, match=rf"held by .* \(pid {writer.info.backend_pid}, idle in transaction, for"
        ):
            attach(server, JOBS)
    # Not even looking into it waits for ever.
    with psycopg.connect(server, application_name="repack") as owner:
        owner.execute("LOCK TABLE app.jobs")
        with pytest.raises(ffc.Unavailable, match=rf"pid {owner.info.backend_pid}, repack, idle in transaction"):
            attach(server, JOBS)
    # A script that was pasted, and not committed.
    with psycopg.connect(server) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('ffcompletion producers', 0))")
        with pytest.raises(ffc.Unavailable, match=rf"setting up is held by .* \(pid {other.info.backend_pid}, idle in"):
            attach(server, JOBS)
        monkeypatch.setattr("ffcompletion.attaching.server._DETACH_MS", 100)
        with pytest.raises(ffc.Unavailable, match="setting up, is locked"):
            detach(server, JOBS.name)
    assert attached(server) == []
    attach(server, JOBS)


def test_rows_that_policies_hide_from_the_owner(server: str, conn: psycopg.Connection) -> None:
    """They would be told of as jobs that have gone: refused with the remedy, by the printed script too."""
    conn.execute("DROP ROLE IF EXISTS attach_owner")
    conn.execute("CREATE ROLE attach_owner LOGIN")
    try:
        conn.execute("GRANT ALL ON SCHEMA app, public TO attach_owner")
        conn.execute("GRANT ALL ON ff_completion_event, ff_exec_core TO attach_owner")
        conn.execute("ALTER TABLE app.jobs OWNER TO attach_owner")
        conn.execute("ALTER TABLE app.jobs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        mine = psycopg.conninfo.make_conninfo(server, user="attach_owner")
        before = everything(conn)
        with pytest.raises(ffc.Unavailable, match=r"policies hide rows of app\.jobs") as caught:
            attach(mine, JOBS)
        assert everything(conn) == before
        conn.execute(str(caught.value).partition("; ")[2].encode())
        attach(mine, JOBS)
        assert "SET LOCAL row_security = off" in attach_sql(JOBS)
    finally:
        for each in attached(server):
            detach(server, each.definition.name)
        conn.execute("DROP OWNED BY attach_owner CASCADE")
        conn.execute("DROP ROLE attach_owner")


def test_other_servers_and_wrong_presets(tmp_path: Path) -> None:
    """Not Postgres; a preset that is not there; a file that is none."""
    for url in ("memory://", "valkey://localhost"):
        with pytest.raises(ffc.Validation, match="in Postgres"):
            attach(url, JOBS)
    with pytest.raises(ffc.Validation, match="there are dbos, django-tasks, pgqueuer, procrastinate"):
        preset("celery")
    file = tmp_path / "mine.toml"
    for text, message in [
        ("name = ", "mine.toml"),
        ('name = "x"\n', "missing required field"),
        ('name = "x"\ntable = "t"\nkey = "k"\nstate = "s"\noutcomes = { a = "success" }\nqueue = "q"', "queue"),
        ('name = 7\ntable = "t"\nkey = "k"\nstate = "s"\noutcomes = { a = "success" }', "Expected `str`"),
    ]:
        file.write_text(text)
        with pytest.raises(ffc.Validation, match=message):
            load_preset(file)
    with pytest.raises(ffc.Validation, match="cannot read"):
        load_preset(tmp_path / "none.toml")
    file.write_text('name = "x"\ntable = "t"\nkey = "k"\nstate = "s"\noutcomes = { a = "success" }\n')
    assert load_preset(file, name="y").name == "y"
    for name in preset_names():
        assert attach_sql(preset(name))
