"""Tables of jobs that are unlike others, and surroundings that mean harm: what is told is what the table says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import psycopg
import pytest
from psycopg import sql

import ffcompletion as ffc
from ffcompletion.attaching import Definition, Recorded, attach, attach_sql, attached, detach
from ffcompletion.attaching.quoting import function_name
from ffcompletion.attaching.scripts import detach_sql
from tests.worlds.attaching import REPORTS, clean, database, rows, told

# Every outcome, an outcome that is spelled in capitals too, what has not finished, what nobody has named, nothing.
OUTCOMES = {"done": "success", "Done": "success", "OK": "skipped", "error": "failed", "stop": "cancelled", "late": "expired",
            "RETRY": "failed"}  # fmt: skip
NIL, ONES = "00000000-0000-0000-0000-000000000000", "11111111-1111-1111-1111-111111111111"
TYPES = """
CREATE TYPE app.mood AS ENUM ('low', 'high'); CREATE DOMAIN app.mild AS app.mood; CREATE DOMAIN app.flag AS boolean;
CREATE DOMAIN app.word AS text CHECK (length(VALUE) < 9);
"""
STATES = [*OUTCOMES, "DONE", "queued", "QUEUED", "running", "retry", "strange", "STRANGE", "", None]


@pytest.fixture(scope="module", params=[16, 18], ids=["postgres16", "postgres18"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with database(request.getfixturevalue(f"postgres{request.param}_url"), "attach_hostile") as url:
        yield url


@pytest.mark.parametrize("pending", [(), ("queued", "running", "QUEUED", "retry")], ids=["usual", "named"])
def test_every_change_of_state_is_told_as_if_each_update_called_the_function(
    url: str, conn: psycopg.Connection, pending: tuple[str, ...]
) -> None:
    """From each state to each other one, by single updates and again by one for all, beside a trigger without WHEN."""
    for table in ("quick", "plain"):
        conn.execute(f"CREATE TABLE app.{table} (id int PRIMARY KEY, status text)".encode())
        definition = Definition(
            name=table, table=f"app.{table}", key="id", state="status", outcomes=OUTCOMES, pending=pending
        )
        attach(url, definition)
    name = function_name("plain")
    conn.execute(f"DROP TRIGGER {name}_state ON app.plain; DROP TRIGGER {name}_key ON app.plain".encode())
    conn.execute(
        f"CREATE TRIGGER {name}_update AFTER UPDATE ON app.plain FOR EACH ROW EXECUTE FUNCTION {name}()".encode()
    )
    pairs = list(enumerate(itertools.product(STATES, STATES)))
    for table in ("quick", "plain"):
        with conn.transaction(), conn.cursor() as cursor:
            cursor.executemany(f"INSERT INTO app.{table} VALUES (%s, %s)".encode(), [(n, old) for n, (old, _) in pairs])
            cursor.executemany(
                f"UPDATE app.{table} SET status = %s WHERE id = %s".encode(), [(new, n) for n, (_, new) in pairs[::2]]
            )
            cursor.execute("CREATE TEMP TABLE wanted (id int, status text) ON COMMIT DROP")
            cursor.executemany("INSERT INTO wanted VALUES (%s, %s)", [(n, new) for n, (_, new) in pairs[1::2]])
            cursor.execute(f"UPDATE app.{table} t SET status = w.status FROM wanted w WHERE w.id = t.id".encode())
    ends: dict[str, list[tuple[str, str]]] = {}
    for table, key, outcome in rows(
        conn,
        "SELECT raw_fields->>'attachment', raw_fields->'tags'->>'key', outcome FROM ff_completion_event"
        " JOIN ff_exec_core USING (partition_key, execution_id) ORDER BY event_id",
    ):
        ends.setdefault(table, []).append((key, outcome))
    assert sorted(ends["quick"]) == sorted(ends["plain"])
    assert len(ends["quick"]) > len(OUTCOMES) * len(STATES)
    records = "SELECT raw_fields->'tags'->>'key', lifecycle_phase, public_state, raw_fields->>'attached_outcome' FROM ff_exec_core WHERE raw_fields->>'attachment' = %s ORDER BY 1"
    assert rows(conn, records, "quick") == rows(conn, records, "plain")
    # And what is known of each job in the end is what its row says.
    known = {key: outcome for key, _, _, outcome in rows(conn, records, "quick")}
    for n, (_, new) in pairs:
        if new not in {"DONE", "strange", "STRANGE"}:
            assert known[str(n)] == OUTCOMES.get(new or ""), pairs[n]


def test_a_key_with_a_collation_of_its_own(url: str, conn: psycopg.Connection) -> None:
    """Attached again, what has vanished is found."""
    conn.execute('CREATE TABLE app.texts (id text COLLATE "C" PRIMARY KEY, status text COLLATE "POSIX")')
    definition = Definition(name="texts", table="app.texts", key="id", state="status", outcomes={"done": "success"})
    conn.execute("INSERT INTO app.texts VALUES ('one', 'done'), ('two', 'queued'), ('three', 'queued')")
    attach(url, definition)
    conn.execute("UPDATE app.texts SET id = 'THREE' WHERE id = 'three'")
    conn.execute("ALTER TABLE app.texts DISABLE TRIGGER USER")
    conn.execute("DELETE FROM app.texts WHERE id = 'THREE'")
    conn.execute("UPDATE app.texts SET status = 'done'")
    assert attach(url, definition).missed == 2
    conn.execute(attach_sql(definition).encode())
    assert told(conn) == [("three", "cancelled"), ("two", "success"), ("THREE", "skipped")]


def test_values_that_are_equal_and_read_otherwise(url: str, conn: psycopg.Connection) -> None:
    """States and keys are compared by their text, as they are named: so is what needs no call of the function."""
    conn.execute("CREATE TABLE app.numbers (id numeric PRIMARY KEY, status numeric)")
    definition = Definition(
        name="numbers", table="app.numbers", key="id", state="status", outcomes={"1.0": "success"}, pending=("0", "1")
    )
    attach(url, definition)
    conn.execute("INSERT INTO app.numbers VALUES (7, 0), (8, 1)")
    conn.execute("UPDATE app.numbers SET status = 1.0 WHERE id = 8")
    conn.execute("UPDATE app.numbers SET id = 7.0 WHERE id = 7")
    assert told(conn) == [("8", "success"), ("7", "cancelled")]
    conn.execute("UPDATE app.numbers SET status = 1.0 WHERE id = 7")
    assert told(conn)[2:] == [("7.0", "success")]


def test_a_job_that_comes_back_from_a_state_without_an_outcome(url: str, conn: psycopg.Connection) -> None:
    """Runs again, as any other that is retried, and is known: nobody who waits is given the end before."""
    attach(url, REPORTS)
    conn.execute("INSERT INTO app.reports (id, status) VALUES (1, 'done'), (2, 'strange')")
    conn.execute("UPDATE app.reports SET status = 'strange' WHERE id = 1")
    conn.execute("UPDATE app.reports SET status = 'queued'")
    phases = "SELECT raw_fields->'tags'->>'key', lifecycle_phase FROM ff_exec_core ORDER BY 1"
    assert rows(conn, phases) == [("1", "submitted"), ("2", "submitted")]


@pytest.mark.parametrize("odd", ["two$ff$schemas", "a$detach$b", "%s{x}'\"\\\u2028é"])
def test_schemas_with_odd_names(url: str, conn: psycopg.Connection, odd: str) -> None:
    """Of our tables, of the jobs' table, and of a table that is gone by the time it is detached."""
    name = sql.Identifier(odd)
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    conn.execute(sql.SQL("CREATE TABLE {0}.{0} (id int PRIMARY KEY, {0} text)").format(name))
    definition = Definition(
        name=odd, table=f"{name.as_string()}.{name.as_string()}", key="id", state=odd, outcomes={odd: "success"}
    )
    try:
        for again in range(2):
            if again:
                conn.execute(attach_sql(definition, schema=odd).encode())
            else:
                attach(url, definition, schema=odd)
            conn.execute(sql.SQL("INSERT INTO {0}.{0} VALUES ({1}, {2})").format(name, again, sql.Literal(odd)))
            events = conn.execute(sql.SQL("SELECT outcome FROM {}.ff_completion_event").format(name)).fetchall()
            assert events == [("success",)]
            if again:
                conn.execute(sql.SQL("DROP TABLE {0}.{0}").format(name))
                detach(url, odd, schema=odd)
            else:
                conn.execute(detach_sql(definition, schema=odd).encode())
            for table in ("ff_completion_event", "ff_exec_core"):
                assert conn.execute(sql.SQL("SELECT FROM {}.{}").format(name, sql.Identifier(table))).rowcount == 0
            assert attached(url, schema=odd) == []
    finally:
        conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))


def test_detached_while_it_is_being_recorded(url: str, conn: psycopg.Connection) -> None:
    """Nothing is left of it, and whoever records is told."""
    conn.execute("INSERT INTO app.reports (status) SELECT 'done' FROM generate_series(1, 12000)")
    attach(url, msgspec.structs.replace(REPORTS, name="other"), record=False)
    with pytest.raises(ffc.Unavailable, match="detached meanwhile"):
        attach(url, REPORTS, progress=lambda done, _about: detach(url, "reports") if done == 5_000 else None)
    assert [each.definition.name for each in attached(url)] == ["other"]
    assert rows(conn, "SELECT count(*) FROM ff_exec_core WHERE raw_fields->>'attachment' = 'reports'") == [(0,)]


@pytest.mark.parametrize("how", ["function", "script", "unqualified"])
def test_whoever_attaches_runs_nobody_elses_code(url: str, conn: psycopg.Connection, how: str) -> None:
    """Functions and operators that fit better than the server's own, in a schema of the search_path: none is called."""
    conn.execute("CREATE SCHEMA evil")
    conn.execute("CREATE TABLE evil.called (by text)")
    made = [
        ("format(text, bigint)", "text"), ("format(text, text)", "text"), ("lower(character varying)", "text"),
        ("convert_to(text, text)", "bytea"), ("jsonb_strip_nulls(jsonb)", "jsonb"),
        ("jsonb_build_object(text, text)", "jsonb"), ("operated(jsonb, jsonb)", "text"), ("same(oid, regclass)", "boolean"),
    ]  # fmt: skip
    for signature, result in made:
        conn.execute(
            f"CREATE FUNCTION evil.{signature} RETURNS {result} LANGUAGE plpgsql AS"
            f" $$ BEGIN INSERT INTO evil.called VALUES ('{signature}'); RETURN NULL; END $$".encode()
        )
    conn.execute("CREATE OPERATOR evil.->> (FUNCTION = evil.operated, LEFTARG = jsonb, RIGHTARG = jsonb)")
    conn.execute("CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = oid, RIGHTARG = regclass)")
    conn.execute(
        "INSERT INTO app.reports (status, output, tenant) VALUES ('done', 'x', 'acme'), ('queued', 'y', 'acme')"
    )
    named = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
    conn.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, app, evil").format(named))
    try:
        definition = msgspec.structs.replace(REPORTS, table="reports") if how == "unqualified" else REPORTS
        for _ in range(2):
            if how == "function":
                attach(url, definition)
                attached(url)
            else:
                with psycopg.connect(url, autocommit=True) as psql:
                    psql.execute(attach_sql(definition).encode())
            conn.execute("ALTER TABLE app.reports DISABLE TRIGGER USER")
            conn.execute("UPDATE app.reports SET status = 'error' WHERE status = 'queued'")
            conn.execute("ALTER TABLE app.reports ENABLE TRIGGER USER")
        attach(url, definition)
        assert rows(conn, "SELECT DISTINCT by FROM evil.called") == []
        assert told(conn) == [("2", "failed")]
    finally:
        conn.execute(sql.SQL("ALTER DATABASE {} RESET search_path").format(named))
        clean(url)
        conn.execute("DROP SCHEMA evil CASCADE")


def test_settings_of_a_worker(url: str, conn: psycopg.Connection) -> None:
    """None of them changes what is told."""
    conn.execute("CREATE TABLE app.kinds (id text PRIMARY KEY, status text, result bytea)")
    definition = Definition(
        name="kinds", table="app.kinds", key="id", state="status", outcomes={"done": "success"}, result="result"
    )
    attach(url, definition)
    for setting in (
        "standard_conforming_strings = off", "bytea_output = 'escape'", "search_path = ''", "quote_all_identifiers = on",
        "plpgsql.variable_conflict = 'error'", "default_transaction_isolation = 'serializable'", "plpgsql.extra_errors = 'all'",
        "transform_null_equals = on", "array_nulls = off", "row_security = off", "client_encoding = 'LATIN1'",
    ):  # fmt: skip
        with psycopg.connect(url, autocommit=True) as worker:
            worker.execute(f"SET {setting}".encode())
            worker.execute("INSERT INTO app.kinds VALUES (%s, 'queued', NULL)", (setting,))
            worker.execute(
                "UPDATE app.kinds SET status = 'done', result = decode('00ff', 'hex') WHERE id = %s", (setting,)
            )
        assert told(conn)[-1:] == [(setting, "success")], setting
        found = rows(
            conn, "SELECT execution_id, result FROM ff_exec_core WHERE raw_fields->'tags'->>'key' = %s", setting
        )
        assert [(str(id_), result) for id_, result in found] == [
            (str(ffc.attached_id("kinds", setting).uuid), b"\0\xff")
        ]


def test_results_of_every_type(url: str, conn: psycopg.Connection) -> None:
    """Bytes are bytes, also where their type is a domain, or a domain of one; anything else is its text."""
    conn.execute(
        "CREATE DOMAIN app.blob AS bytea CHECK (octet_length(VALUE) < 99); CREATE DOMAIN app.small AS app.blob;"
        " CREATE DOMAIN app.note AS text"
    )
    for n, (kind, value, wanted) in enumerate((
        ("bytea", rb"\x00ff", b"\0\xff"), ("app.blob", rb"\x00ff", b"\0\xff"), ("app.small", rb"\x00ff", b"\0\xff"),
        ("app.note", rb"\x00ff", rb"\x00ff"), ("text", rb"\x00ff", rb"\x00ff"), ("jsonb", b'{"a": 1}', b'{"a": 1}'),
        ("numeric", b"1.50", b"1.50"), ("varchar(9)", b"ok", b"ok"), ("char(4)", b"ok", b"ok  "), ("int[]", b"{1,2}", b"{1,2}"),
    )):  # fmt: skip
        name = f"kind_{n}"
        conn.execute(f"CREATE TABLE app.{name} (id int PRIMARY KEY, status text, r {kind})".encode())
        conn.execute(f"INSERT INTO app.{name} VALUES (1, 'done', %s::text::{kind})".encode(), (value.decode(),))
        definition = Definition(
            name=name, table=f"app.{name}", key="id", state="status", outcomes={"done": "success"}, result="r"
        )
        attach(url, definition)
        conn.execute(f"INSERT INTO app.{name} SELECT 2, 'queued', r FROM app.{name}".encode())
        conn.execute(f"UPDATE app.{name} SET status = 'done' WHERE id = 2".encode())
        found = rows(conn, "SELECT result FROM ff_exec_core WHERE raw_fields->>'attachment' = %s", name)
        assert [bytes(result) for (result,) in found] == [wanted, wanted], kind


def test_another_trigger_takes_the_end_back(url: str, conn: psycopg.Connection) -> None:
    """A job that fails is put back by a trigger of the table's own, behind ours: it has not finished."""
    attach(url, REPORTS)
    conn.execute(
        "CREATE FUNCTION app.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE app.reports SET status = 'queued' WHERE id = NEW.id AND status = 'error'; RETURN NULL; END $$"
    )
    conn.execute("CREATE TRIGGER put_back AFTER UPDATE ON app.reports FOR EACH ROW EXECUTE FUNCTION app.again()")
    conn.execute("INSERT INTO app.reports (id) VALUES (1)")
    conn.execute("UPDATE app.reports SET status = 'error' WHERE id = 1")
    phases = "SELECT raw_fields->'tags'->>'key', lifecycle_phase FROM ff_exec_core ORDER BY 1"
    assert rows(conn, phases) == [("1", "submitted")]


@pytest.mark.parametrize(
    ("kind", "queued", "done"),
    [
        ("app.mood", "low", "high"), ("app.mild", "low", "high"), ("boolean", "f", "t"), ("app.flag", "f", "t"),
        ("smallint", "0", "-7"), ("numeric(4,1)", "0.0", "2.5"), ("char(6)", "queued", "done  "), ('"char"', "q", "d"),
        ("varchar(6)", "queued", "done"), ("app.word", "queued", "done"), ("name", "queued", "done"), ("uuid", NIL, ONES),
        ("date", "1999-12-31", "2000-01-01"), ("jsonb", '"queued"', '"done"'), ("json", '"queued"', '"done"'),
    ],
)  # fmt: skip
def test_states_of_every_type(url: str, conn: psycopg.Connection, kind: str, queued: str, done: str) -> None:
    """Told as they read; NULL has not finished; what was there before is known."""
    conn.execute(TYPES)
    conn.execute(f"CREATE TABLE app.kinds (id int PRIMARY KEY, status {kind})".encode())
    insert = f"INSERT INTO app.kinds SELECT n, CAST(s AS {kind}) FROM unnest(%s::int[], %s::text[]) x(n, s)".encode()
    conn.execute(insert, ([1, 2, 3], [queued, done, None]))
    definition = Definition(
        name="kinds", table="app.kinds", key="id", state="status", outcomes={done: "success"}, pending=(queued,)
    )
    attach(url, definition)
    update = f"UPDATE app.kinds SET status = CAST(%s::text AS {kind}) WHERE id = ANY(%s)".encode()
    conn.execute(update, (done, [1, 2]))
    conn.execute(update, (None, [1]))
    conn.execute(update, (queued, [1, 3]))
    conn.execute(update, (done, [1, 3]))
    conn.execute(insert, ([4, 5], [done, queued]))
    assert told(conn) == [("1", "success"), ("1", "success"), ("3", "success"), ("4", "success")]
    assert attach(url, definition) == Recorded(jobs=5)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("smallint", ["-32768", "7"]), ("int", ["-1", "0"]), ("bigint", [str(-(1 << 63)), str((1 << 63) - 1)]),
        ("numeric", [str(1 << 70), "7"]), ("uuid", [NIL, ONES]), ("text", ["", "it's \\ 50% {x}\n\"é\""]),
        ("varchar(9)", ["007", "-0"]), ("app.word", ["a", "A"]), ("name", ["x" * 63, "y"]),
    ],
)  # fmt: skip
def test_keys_of_every_type(url: str, conn: psycopg.Connection, kind: str, keys: list[str]) -> None:
    """The id is the one that Python makes; paged through, vanished and found."""
    conn.execute(TYPES)
    conn.execute(f"CREATE TABLE app.kinds (id {kind} PRIMARY KEY, status text)".encode())
    insert = f"INSERT INTO app.kinds VALUES (CAST(%s::text AS {kind}), 'queued')".encode()
    definition = Definition(name="kinds", table="app.kinds", key="id", state="status", outcomes={"done": "success"})
    conn.execute(insert, (keys[0],))
    attach(url, definition)
    conn.execute(insert, (keys[1],))
    conn.execute("UPDATE app.kinds SET status = 'done'")
    assert sorted(told(conn)) == sorted((key, "success") for key in keys)
    ids = {str(id_) for (id_,) in rows(conn, "SELECT execution_id FROM ff_exec_core")}
    assert {str(ffc.attached_id("kinds", key).uuid) for key in keys if key} <= ids
    conn.execute("UPDATE app.kinds SET status = 'queued'")
    conn.execute("ALTER TABLE app.kinds DISABLE TRIGGER USER")
    conn.execute(f"DELETE FROM app.kinds WHERE id = CAST(%s::text AS {kind})".encode(), (keys[1],))
    assert attach(url, definition) == Recorded(jobs=1, missed=1)
    assert told(conn)[-1] == (keys[1], "skipped")


def test_the_condition_takes_no_word_for_another(url: str, conn: psycopg.Connection) -> None:
    """Words that mean something to a regular expression, hold commas and quotes, or are the beginning of one another."""
    words = ("a.c", "a,b", "(", "a|b", "ab*", "'", "o'clock", "\\", "new ", "new", "läuft", "$", "[x]", "','", "")
    ends = ("abc", "a", "b", "'a.c'", "a.c','a.c", "new  ", "a,b,a", "x", "\\(", "''")
    outcomes = dict.fromkeys(ends, "success")
    conn.execute("CREATE TABLE app.words (id int PRIMARY KEY, status text)")
    attach(
        url,
        Definition(name="words", table="app.words", key="id", state="status", outcomes=outcomes, pending=words[:-1]),
    )
    pairs = list(itertools.product((*words, None), (*ends, *words)))
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO app.words VALUES (%s, %s)", [(n, old) for n, (old, _) in enumerate(pairs)])
        cursor.executemany("UPDATE app.words SET status = %s WHERE id = %s", [(b, n) for n, (_, b) in enumerate(pairs)])
    assert sorted(int(key) for key, _ in told(conn)) == [n for n, (_, new) in enumerate(pairs) if new in ends]


def test_a_trigger_that_is_gone_is_missed(url: str, conn: psycopg.Connection) -> None:
    """Each of them; and an attachment of an earlier version, with one trigger for all updates, works as it did."""
    conn.execute("CREATE TABLE app.kept (id int PRIMARY KEY, status text)")
    definition = Definition(name="kept", table="app.kept", key="id", state="status", outcomes={"done": "success"})
    name = function_name("kept")
    for gone in ("insert", "state", "key", "delete"):
        attach(url, definition)
        assert [each.working for each in attached(url)] == [True]
        conn.execute(f"DROP TRIGGER {name}_{gone} ON app.kept".encode())
        assert [each.working for each in attached(url)] == [False], gone
    attach(url, definition)
    conn.execute(f"DROP TRIGGER {name}_state ON app.kept; DROP TRIGGER {name}_key ON app.kept".encode())
    assert [each.working for each in attached(url)] == [False]
    conn.execute(
        f"CREATE TRIGGER {name}_update AFTER UPDATE ON app.kept FOR EACH ROW EXECUTE FUNCTION {name}()".encode()
    )
    assert [each.working for each in attached(url)] == [True]
    attach(url, definition)
    assert rows(conn, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'app.kept'::regclass") == [(4,)]


def test_a_job_that_gets_another_key(url: str, conn: psycopg.Connection) -> None:
    """Alone, with its state, by a reference that follows, where it is generated, and where nothing changes at all."""
    conn.execute(
        "CREATE TABLE app.owners (id int PRIMARY KEY);"
        "CREATE TABLE app.moved (id int PRIMARY KEY REFERENCES app.owners ON UPDATE CASCADE, status text);"
        "CREATE TABLE app.made (base int, id int GENERATED ALWAYS AS (base * 10) STORED PRIMARY KEY, status text)"
    )
    for table in ("moved", "made"):
        attach(
            url,
            Definition(name=table, table=f"app.{table}", key="id", state="status", outcomes={"done": "success"}),
        )
    conn.execute("INSERT INTO app.owners SELECT generate_series(1, 9)")
    conn.execute("INSERT INTO app.moved VALUES (1, 'queued'), (2, 'queued'), (3, 'queued')")
    conn.execute("UPDATE app.moved SET id = id, status = status")
    conn.execute("UPDATE app.moved SET id = 4 WHERE id = 1")
    conn.execute("UPDATE app.moved SET id = 5, status = 'done' WHERE id = 2")
    conn.execute("UPDATE app.owners SET id = 10 WHERE id = 3")
    conn.execute("UPDATE app.moved SET status = 'done' WHERE id = 10")
    conn.execute("INSERT INTO app.made VALUES (1, DEFAULT, 'queued')")
    conn.execute("UPDATE app.made SET base = 2")
    conn.execute("UPDATE app.made SET status = 'done'")
    assert told(conn) == [
        ("1", "cancelled"), ("2", "cancelled"), ("5", "success"), ("3", "cancelled"), ("10", "success"),
        ("10", "cancelled"), ("20", "success"),
    ]  # fmt: skip
