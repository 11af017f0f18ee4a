"""Stored state, as Valkey keeps it."""

from __future__ import annotations

from tests.worlds import ValkeyWorld, done


async def test_valkey_an_execution_that_runs_again(valkey: ValkeyWorld) -> None:
    """Replayed: no outcome, no time, and not the result of the run before."""
    item = done(result=b"old", flow_id=None)
    await valkey.finish(item, push=False)
    await valkey.replay(item)
    async with valkey.backend() as backend:
        found = await backend.describe_execution(item.execution_id, result=True)
        assert found is not None
        assert (found.phase, found.terminal_outcome, found.completed_at_ms) == ("runnable", None, 0)
        assert found.result is None
        assert found.flow_id is None
        assert not found.is_terminal
