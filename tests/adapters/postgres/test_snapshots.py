"""Stored state, as Postgres keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worlds import Done, PostgresWorld, done


async def _core(postgres: PostgresWorld, item: Done, **columns: Any) -> None:
    partition, _, bare = item.execution_id[4:].partition("}:")
    names = ", ".join(["partition_key", "execution_id", *columns])
    values = (partition, bare, *columns.values())
    await postgres.sql(f"INSERT INTO ff_exec_core ({names}) VALUES ({', '.join(['%s'] * len(values))})", values)


@pytest.mark.parametrize(
    ("columns", "outcome"),
    [
        ({"lifecycle_phase": "cancelled", "public_state": "running"}, "cancelled"),
        ({"lifecycle_phase": "terminal", "cancellation_reason": "execution_deadline"}, "expired"),
        ({"lifecycle_phase": "terminal", "raw_fields": '{"last_failure_message": "attempt_timeout"}'}, "expired"),
        ({"lifecycle_phase": "terminal", "raw_fields": '{"last_failure_message": "boom"}'}, "failed"),
        ({"lifecycle_phase": "terminal", "public_state": "completed"}, "failed"),
        ({"lifecycle_phase": "active", "public_state": "completed"}, None),
    ],
)
async def test_postgres_without_a_row_in_the_outbox(
    postgres: PostgresWorld, columns: dict[str, Any], outcome: str | None
) -> None:
    """Phase and reasons decide; ``public_state`` is not believed."""
    item = done()
    await _core(postgres, item, **columns)
    async with postgres.backend() as backend:
        found = await backend.describe_execution(item.execution_id)
        assert found is not None
        assert found.terminal_outcome == outcome


async def test_postgres_the_newest_row_that_is_a_completion_decides(postgres: PostgresWorld) -> None:
    """``resumable`` is none; a core that is gone leaves what the outbox knows."""
    item = done(outcome="success")
    await postgres.announce(item, Done(execution_id=item.execution_id, outcome="skipped"))
    await postgres.announce(Done(execution_id=item.execution_id, outcome="resumable"))
    async with postgres.backend() as backend:
        found = await backend.describe_execution(item.execution_id)
        assert found is not None
        assert found.terminal_outcome == "skipped"
        await postgres.sql("DELETE FROM ff_exec_core")
        found = await backend.describe_execution(item.execution_id)
        assert found is not None
        assert (found.phase, found.terminal_outcome, found.completed_at_ms) == ("terminal", "skipped", 1700000000000)
        upper = item.execution_id[: item.execution_id.index("}:") + 2] + item.execution_id.partition("}:")[2].upper()
        assert (await backend.describe_execution(upper)) is not None
