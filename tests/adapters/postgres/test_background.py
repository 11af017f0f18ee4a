"""What a run looks up beside its reader: begun where the server allows it, and gone with the run."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import PostgresWorld, done, eventually, first


def background() -> list[str]:
    """The tasks of runs that are under way, by name."""
    return sorted(
        task.get_name().removeprefix("ffcompletion-postgres-")
        for task in asyncio.all_tasks()
        if task.get_name() in {"ffcompletion-postgres-lookups", "ffcompletion-postgres-reconciler"}
    )


async def test_tasks_are_those_that_somebody_needs(engine: PostgresWorld) -> None:
    """One for all that look records up, another for those that want results; none is left behind."""
    async with engine.backend() as backend:
        async with ffc.subscribe(backend):
            # Ready, though nobody filters yet.
            before = background()
            assert before.count("reconciler") == 1
            async with (
                ffc.subscribe(backend, ffc.ScannerFilter("a")),
                ffc.subscribe(backend, ffc.ScannerFilter("b")),
                ffc.subscribe(backend, ffc.ScannerFilter("a"), results=True),
                ffc.subscribe(backend, ffc.ScannerFilter("b"), results=True),
            ):
                assert background() == ["lookups", "lookups", "reconciler"]
        await eventually(lambda: not background())


async def test_records_that_may_not_be_read(engine: PostgresWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Streams that need none go on; that ends without a row are not found is told, once, with what to do."""
    role = "no_records"
    await engine.sql(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ff_completion_event TO {role}")
    try:
        url = psycopg.conninfo.make_conninfo(engine.url, user=role)
        async with PostgresBackend(url) as backend, ffc.subscribe(backend) as stream:
            assert "reconciler" not in background()
            item = done()
            await engine.announce(item)
            assert (await first(stream)).execution_id == item.execution_id
            with pytest.raises(ffc.Unavailable, match="GRANT SELECT"):
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
        (told,) = [record.getMessage() for record in caplog.records if "is not found" in record.getMessage()]
        assert "GRANT SELECT" in told
    finally:
        await engine.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
