"""What an outbox holds now."""

from __future__ import annotations

import psycopg

import ffcompletion as ffc
from tests.doors.cli.commands import run, told
from tests.worlds import PostgresWorld, done


async def test_postgres_newest_id_rows_and_who_holds_the_watermark(postgres: PostgresWorld) -> None:
    """An empty outbox, three rows, and a transaction that is open; who listens is counted; the cursor resumes there."""
    empty = told(postgres.url)
    assert (empty["rows"], empty["newest_id"], empty["cursor"], empty["held_by"]) == (0, None, None, [])
    await postgres.announce(*(done() for _ in range(3)))
    await postgres.sql("INSERT INTO ff_lane_registry VALUES ('fast', 0, 'test') ON CONFLICT DO NOTHING")
    with psycopg.connect(postgres.url, application_name="forgetful") as writer:
        writer.execute(
            "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " VALUES (1, '550e8400-e29b-41d4-a716-446655440000', 'success', 1700000000000)"
        )
        async with postgres.backend() as backend, ffc.subscribe(backend):
            found = told(postgres.url)
            shown = run(postgres.url)
        writer.rollback()
    assert found["rows"] == 3
    assert found["newest_id"] - found["oldest_id"] == 2
    assert found["issued_id"] > found["newest_id"]
    assert found["newest_age_s"] > 0
    assert ffc.StreamCursor.from_text(found["cursor"]).event_id == found["newest_id"]
    (holder,) = found["held_by"]
    assert (holder["application"], holder["state"]) == ("forgetful", "idle in transaction")
    assert holder["query"].startswith("INSERT INTO ff_completion_event")
    assert "fast" in found["lanes"]
    assert found["listening"] >= 1
    assert found["reader_sessions"] >= 2
    assert "forgetful" in shown.stdout
    assert found["cursor"] in shown.stdout


async def test_a_database_without_an_outbox(postgres: PostgresWorld) -> None:
    """Says so, and where to ask."""
    answer = run(postgres.url, "--schema", "pg_catalog")
    assert answer.returncode == 2
    assert "there is no table" in answer.stderr
