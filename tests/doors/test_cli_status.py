"""``status``: what no program's own counters can tell, on both servers."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import psycopg
import pytest

import ffcompletion as ffc
from tests.doors.test_cli import FFC
from tests.worlds import PostgresWorld, ValkeyWorld, done


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FFC, "status", *words], capture_output=True, text=True, timeout=60, check=False)


def told(url: str) -> dict[str, Any]:
    answer = run(url, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


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


async def test_valkey_what_has_finished_and_who_subscribes(valkey: ValkeyWorld) -> None:
    """Of all lanes and partitions; a user who may not read the index is told the rest."""
    assert told(valkey.url)["finished_executions"] == 0
    for _ in range(3):
        await valkey.finish(done())
    await valkey.finish(done(), lane="fast")
    await valkey.command("SADD", "ff:idx:lanes", "default", "fast")
    async with valkey.backend() as backend, ffc.subscribe(backend):
        found = told(valkey.url)
    assert (found["finished_executions"], found["lanes"], found["subscribers"]) == (4, ["default", "fast"], 1)
    assert 0 <= found["newest_age_s"] < 60
    await valkey.command("ACL", "SETUSER", "looker", "on", ">secret", "+info", "+pubsub|numsub", "&ff:dag:completions")
    try:
        limited = told(valkey.url.replace("valkey://", "valkey://looker:secret@"))
    finally:
        await valkey.command("ACL", "DELUSER", "looker")
    assert (limited["finished_executions"], limited["lanes"]) == (None, None)
    assert str(limited["server"]).startswith("valkey")


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "memory://"])
def test_trouble_is_one_line(url: str) -> None:
    """Nobody there, or nothing to look at from outside: exit status 2."""
    answer = run(url)
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (2, 1), answer.stderr


async def test_a_database_without_an_outbox(postgres: PostgresWorld) -> None:
    """Says so, and where to ask."""
    answer = run(postgres.url, "--schema", "pg_catalog")
    assert answer.returncode == 2
    assert "there is no table" in answer.stderr
