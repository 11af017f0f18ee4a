"""The producer's own tables: plain, indexed for what is read; those of earlier versions go on, and can be moved over."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator

import pytest
from psycopg import AsyncConnection

import ffcompletion as ffc
from ffcompletion.producers import install, text
from tests import TESTS
from tests.worlds import first, some

PARTITIONED = (TESTS / "data" / "producer_partitioned.sql").read_text()
EMIT = "SELECT ff_emit_completion('{fp:' || %s::int || '}:' || gen_random_uuid(), 'success', namespace => %s)"


@pytest.fixture
async def database(postgres18_url: str) -> AsyncGenerator[str]:
    """A database of its own on the shared server."""
    name = f"producer_{uuid.uuid4().hex}"
    async with await AsyncConnection.connect(postgres18_url, autocommit=True) as conn:
        await conn.execute(f"CREATE DATABASE {name}".encode())
        yield postgres18_url.replace("/postgres?", f"/{name}?")
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def _kinds(conn: AsyncConnection[tuple[object, ...]]) -> set[str]:
    cursor = await conn.execute(
        "SELECT relkind::text FROM pg_class WHERE oid IN ('ff_exec_core'::regclass, 'ff_completion_event'::regclass)"
    )
    return {str(row[0]) for row in await cursor.fetchall()}


async def test_the_tables_are_plain_and_installing_again_changes_nothing(database: str) -> None:
    """One table each; rows stay; the indexes serve the reads."""
    assert "are ready" in await install(database)
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        assert await _kinds(conn) == {"r"}
        await conn.execute(EMIT.encode(), (7, "a"))
        assert "partitioned" not in await install(database)
        assert await (await conn.execute("SELECT count(*) FROM ff_completion_event")).fetchone() == (1,)
        await conn.execute("SET enable_seqscan = off")
        for query, index in (
            ("SELECT * FROM ff_completion_event WHERE event_id > 5 ORDER BY event_id LIMIT 9", "pkey"),
            ("SELECT * FROM ff_completion_event WHERE partition_key = 1 AND execution_id = gen_random_uuid()"
             " ORDER BY event_id DESC LIMIT 1", "by_execution"),
            ("SELECT * FROM ff_exec_core WHERE flow_id = gen_random_uuid()", "by_flow"),
        ):  # fmt: skip
            plan = await (await conn.execute(f"EXPLAIN {query}".encode())).fetchall()
            assert any(index in row[0] for row in plan), plan


async def test_tables_of_earlier_versions_go_on_working(database: str) -> None:
    """Installing over them keeps them partitioned, says how to move over, and streams work."""
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(PARTITIONED.encode())
        told = await install(database)
        assert "producers show postgres-plain" in told
        assert await _kinds(conn) == {"p"}
        async with ffc.connect(database) as backend, ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
            await conn.execute(EMIT.encode(), (7, "a"))
            assert (await first(stream)).outcome == "success"


async def test_moving_over_keeps_ids_grants_and_stored_cursors(database: str) -> None:
    """Every row has its id, the sequence goes on, readers' rights stay, and a cursor of before resumes."""
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(PARTITIONED.encode())
        await conn.execute(
            "CREATE ROLE mover_reader; GRANT SELECT ON ff_completion_event, ff_exec_core TO mover_reader;"
            'CREATE ROLE "Mover, ""emits"""; GRANT INSERT, UPDATE (result) ON ff_exec_core TO "Mover, ""emits""";'
            'GRANT SELECT (event_id), INSERT (outcome) ON ff_completion_event TO "Mover, ""emits""" WITH GRANT OPTION;'
            "GRANT SELECT ON SEQUENCE ff_completion_event_event_id_seq TO mover_reader"
        )
        try:
            for number in range(20):
                await conn.execute(EMIT.encode(), (number, "a"))
            rows = "SELECT * FROM ff_completion_event ORDER BY event_id"
            records = "SELECT * FROM ff_exec_core ORDER BY execution_id"
            before = [await (await conn.execute(query.encode())).fetchall() for query in (rows, records)]
            async with ffc.connect(database) as backend:
                async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
                    cursor = (await some(stream, 5))[-1].cursor
            async with conn.transaction():
                await conn.execute(text("postgres-plain").encode())
            assert await _kinds(conn) == {"r"}
            assert [await (await conn.execute(query.encode())).fetchall() for query in (rows, records)] == before
            found = await (await conn.execute(
                "SELECT has_table_privilege('mover_reader', 'ff_completion_event', 'SELECT'),"
                " has_table_privilege('mover_reader', 'ff_exec_core', 'SELECT'),"
                " has_sequence_privilege('mover_reader', 'ff_completion_event_event_id_seq', 'SELECT')"
            )).fetchone()  # fmt: skip
            assert found == (True, True, True)
            # What was granted for columns, and no more than that.
            for table, right, columns in (
                ("ff_exec_core", "UPDATE", {"result"}),
                ("ff_completion_event", "SELECT WITH GRANT OPTION", {"event_id"}),
                ("ff_completion_event", "INSERT WITH GRANT OPTION", {"outcome"}),
            ):
                granted = await conn.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s::text::regclass AND attnum > 0"
                    """ AND has_column_privilege('Mover, "emits"', attrelid, attnum, %s)""",
                    (table, right),
                )
                assert {row[0] for row in await granted.fetchall()} == columns
            await conn.execute(EMIT.encode(), (7, "a"))
            assert await (await conn.execute("SELECT max(event_id) FROM ff_completion_event")).fetchone() == (21,)
            async with ffc.connect(database) as backend:
                async with ffc.subscribe(backend, ffc.ScannerFilter("a"), cursor=cursor) as stream:
                    assert len(await some(stream, 16)) == 16
            # A second time, and installing again: nothing.
            async with conn.transaction():
                await conn.execute(text("postgres-plain").encode())
            assert "partitioned" not in await install(database)
        finally:
            await conn.execute(
                'DROP OWNED BY mover_reader, "Mover, ""emits"""; DROP ROLE mover_reader, "Mover, ""emits"""'
            )


async def test_moving_over_touches_nobody_else_s_tables(postgres18_url: str) -> None:
    """The engine's own tables, or none at all."""
    async with await AsyncConnection.connect(postgres18_url, autocommit=True) as conn:
        async with conn.transaction():
            await conn.execute(text("postgres-plain").encode())
        assert await _kinds(conn) == {"p"}
