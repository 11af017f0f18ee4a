"""What is set up and stored while somebody holds a lock, or under a role's own limits: on a real server."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.attaching import Definition, attach, attached, detach
from ffcompletion.backends.postgres import PostgresCheckpoints, installing
from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.producers import install, prune, uninstall
from tests.worlds import PostgresWorld
from tests.worlds.servers import pgbouncer

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
async def test_a_position_that_was_given_up_is_not_stored_later(
    server: embedded.Server, own: PostgresWorld, tmp_path: Path, pooled: bool
) -> None:
    """Nor does it go on waiting at the server, beside its successors."""
    at = [Checkpoint(cursor=ffc.StreamCursor.outbox(number), backend="x", selection="") for number in range(4)]
    with pgbouncer(server.url, tmp_path) if pooled else nullcontext(server.url) as url:
        async with PostgresCheckpoints(url, timeout=0.5) as store:
            await store.save("a", at[0])
            locker = await own.connect(autocommit=False)
            await locker.execute("LOCK TABLE ffcompletion_checkpoint")
            for later in at[1:]:
                with pytest.raises(ffc.EngineError):
                    await store.save("a", later)
            assert await own.sql(WAITING) == [(0,)]
            await locker.rollback()
            assert await store.load("a") == at[0]
    await own.sql("DROP TABLE ffcompletion_checkpoint")


async def test_setting_up_that_was_given_up_is_in_nobodys_way(
    server: embedded.Server, own: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer's transaction stays open: the others wait for a moment at a time, and nobody once it is given up."""
    monkeypatch.setattr(installing, "_STATEMENT_S", 3.0)
    await own.sql("CREATE SCHEMA held")
    holder = await own.connect(autocommit=False)
    try:
        await install(server.url, schema="held")
        await holder.execute("LOCK TABLE held.ff_completion_event, held.ff_exec_core IN ROW EXCLUSIVE MODE")
        for setting_up in (install, uninstall):
            trying = asyncio.ensure_future(setting_up(server.url, schema="held"))
            written = 0
            while not trying.done():
                await own.sql("SELECT held.ff_emit_completion('{fp:7}:' || gen_random_uuid(), 'success')")
                written += 1
                await asyncio.sleep(0.01)
            with pytest.raises(
                ffc.Unavailable,
                match=rf"a table of ours is held by .* \(pid {holder.info.backend_pid}.*, for",
            ):
                await trying
            assert written > 10
            assert await own.sql(WAITING) == [(0,)]
    finally:
        await holder.rollback()
        await own.sql("DROP SCHEMA held CASCADE")


async def test_a_role_whose_statements_are_short_sets_up_what_takes_longer(
    server: embedded.Server, own: PostgresWorld
) -> None:
    """Its limit is for questions. Recording a table of jobs ended half-way, and each time anew."""
    await own.sql("CREATE ROLE short LOGIN SUPERUSER; CREATE SCHEMA short")
    await own.sql("ALTER ROLE short SET statement_timeout = '50ms'")
    await own.sql("CREATE TABLE short.jobs AS SELECT id, 'todo' AS state FROM generate_series(1, 10000) id")
    await own.sql("ALTER TABLE short.jobs ADD PRIMARY KEY (id)")
    url = psycopg.conninfo.make_conninfo(server.url, user="short")
    definition = Definition(name="jobs", table="short.jobs", key="id", state="state", outcomes={"done": "success"})
    try:
        await install(url, schema="short")
        recorded = await asyncio.to_thread(attach, url, definition, schema="short")
        assert recorded.jobs == 10_000
        (found,) = await asyncio.to_thread(attached, url, schema="short")
        assert found.jobs == 10_000
        await asyncio.to_thread(detach, url, definition.name, schema="short")
        await own.sql(
            "SELECT short.ff_emit_completion('{fp:7}:' || gen_random_uuid(), 'success') FROM generate_series(1, 20)"
        )
        await own.sql("CREATE FUNCTION short.slow() RETURNS trigger LANGUAGE plpgsql AS"
                      " 'BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END'")  # fmt: skip
        await own.sql("CREATE TRIGGER slow AFTER DELETE ON short.ff_completion_event EXECUTE FUNCTION short.slow()")
        assert await prune(url, timedelta(0), schema="short") > 0
    finally:
        await own.sql("DROP SCHEMA short CASCADE; DROP OWNED BY short; DROP ROLE short")
