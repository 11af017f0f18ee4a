"""Our own producers on Postgres: submitting, finishing, pruning, uninstalling, and a role that only emits."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.producers import prune
from tests import ROOT
from tests.adapters.produced import connected

DOCS = ROOT / "docs"


async def new(conn: psycopg.AsyncConnection, flow: str | None = None) -> ffc.ExecutionId:
    row = await (await conn.execute("SELECT ff_new_execution_id(%s)", (flow,))).fetchone()
    assert row is not None
    return ffc.ExecutionId(row[0])


async def test_what_was_submitted_is_known_and_waited_for(url: str) -> None:
    """Unknown is NotFound, submitted waits, finished answers; what was said when submitting holds."""
    flow = "a76a8496-6e9c-457a-8727-b5169796f3cd"
    async with connected(url) as (backend, conn):
        id_ = await new(conn, flow)
        with pytest.raises(ffc.NotFound):
            await ffc.wait_for_completion(backend, id_, timeout=5)
        submit = "SELECT ff_submit_execution(%s, %s, 'tenant-a', '{\"k\": \"v\"}')"
        assert await (await conn.execute(submit, (id_, flow))).fetchone() == (True,)
        assert await (await conn.execute("SELECT ff_submit_execution(%s)", (id_,))).fetchone() == (False,)
        found = await backend.describe_execution(id_)
        assert found is not None
        assert (found.is_terminal, found.namespace, found.flow_id, found.tags) == (False, "tenant-a", flow, {"k": "v"})
        assert await backend.flow_members(flow) == [id_]
        wanted = ffc.ScannerFilter("tenant-a").with_instance_tag("k", "v")
        async with ffc.subscribe(backend, wanted) as stream:
            waiting = asyncio.create_task(ffc.wait_for_completion(backend, id_, timeout=20, result=True))
            await asyncio.sleep(0)
            await conn.execute("SELECT ff_emit_completion(%s, 'failed', result => 'why')", (id_,))
            done = await waiting
            assert (done.outcome, done.payload_bytes) == ("failed", b"why")
            told = await asyncio.wait_for(anext(stream), 20)
            assert (told.execution_id, told.flow_id) == (id_, flow)
        # It runs again, and finishes otherwise.
        assert await (await conn.execute("SELECT ff_submit_execution(%s)", (id_,))).fetchone() == (True,)
        found = await backend.describe_execution(id_, result=True)
        assert found is not None
        assert (found.is_terminal, found.terminal_outcome, found.result, found.tags) == (False, None, None, {"k": "v"})
        await conn.execute("SELECT ff_emit_completion(%s, 'success')", (id_,))
        assert (await ffc.wait_for_completion(backend, id_, timeout=20)).outcome == "success"


REFUSED = {
    "ff_emit_completion('{fp:7}:550e8400-e29b-41d4-a716-446655440000', 'done')": "outcome must be",
    "ff_emit_completion('{fp:7}:550e8400-e29b-41d4-a716-446655440000', NULL)": "outcome must be",
    "ff_emit_completion('{fp:7}:550e8400-e29b-41d4-a716-446655440000', 'failed', tags => '[]')": "tags must be",
    "ff_submit_execution('{fp:7}:550e8400-e29b-41d4-a716-446655440000', tags => '7')": "tags must be",
    "ff_prune_completions(NULL)": "ages must not be negative",
    "ff_prune_completions('-1 s')": "ages must not be negative",
    "ff_prune_completions('1 s', batch => 0)": "ages must not be negative",
}


async def test_what_cannot_be_right_is_refused_and_writes_nothing(url: str) -> None:
    """By name, before anything is written."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        for call, message in REFUSED.items():
            with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
                await conn.execute(f"SELECT {call}".encode())
        for table in ("ff_exec_core", "ff_completion_event"):
            assert await (await conn.execute(f"SELECT count(*) FROM {table}".encode())).fetchone() == (0,)


async def test_pruning_keeps_what_is_young_and_expires_older_cursors(url: str) -> None:
    """Oldest first, in pieces; the newest announcement stays, so an older cursor is known as one."""
    async with connected(url) as (backend, conn):
        ids = [await new(conn) for _ in range(12)]
        unfinished = await new(conn)
        await conn.execute("SELECT ff_submit_execution(%s)", (unfinished,))
        for id_ in ids[:4]:
            await conn.execute("SELECT ff_emit_completion(%s, 'success')", (id_,))
        # More than the 32 that a crash or rolled back inserts may leave out.
        await conn.execute("SELECT ff_emit_completion(ff_new_execution_id(), 'success') FROM generate_series(1, 40)")
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            first = await asyncio.wait_for(anext(stream), 20)
        assert first.cursor is not None
        await conn.execute("UPDATE ff_completion_event SET committed_at_ms = committed_at_ms - 7200000")
        await conn.execute("UPDATE ff_exec_core SET terminal_at_ms = terminal_at_ms - 7200000, created_at_ms = 1")
        for id_ in ids[4:]:
            await conn.execute("SELECT ff_emit_completion(%s, 'success')", (id_,))
        row = await (await conn.execute("SELECT ff_prune_completions('1 hour', batch => 3)")).fetchone()
        assert row == (6,)
        assert await prune(url, timedelta(hours=1)) == 2 * 44 - 6
        assert await prune(url, timedelta(hours=1)) == 0
        found = await asyncio.gather(*map(backend.describe_execution, ids))
        assert [each is not None for each in found] == [False] * 4 + [True] * 8
        with pytest.raises(ffc.CursorExpired):
            async with ffc.subscribe(backend, cursor=first.cursor):
                pass
        async with ffc.subscribe(backend, cursor=ffc.StreamCursor.beginning()) as stream:
            assert [(await asyncio.wait_for(anext(stream), 20)).execution_id for _ in range(8)] == ids[4:]
        # Unfinished ones only where an age is given for them.
        assert await backend.describe_execution(unfinished) is not None
        assert await prune(url, timedelta(hours=1), unfinished=timedelta(hours=1)) == 1
        assert await backend.describe_execution(unfinished) is None
        # All of it may be old: the last row stays.
        assert await prune(url, timedelta(0)) == 15
        assert await (await conn.execute("SELECT count(*) FROM ff_completion_event")).fetchone() == (1,)
        with pytest.raises(ffc.CursorExpired):
            async with ffc.subscribe(backend, cursor=first.cursor):
                pass
    with pytest.raises(ffc.Validation, match="negative"):
        await prune(url, timedelta(seconds=-1))


async def test_the_role_that_only_emits(url: str) -> None:
    """The guide's own GRANT lines: it may submit and finish, and read nobody's results from the outbox."""
    lines = re.search(r"```sql\n(-- a role that only emits.*?)```", (DOCS / "producers.md").read_text(), re.DOTALL)
    assert lines is not None
    async with connected(url) as (_, conn):
        await conn.execute("DROP ROLE IF EXISTS emitter")
        await conn.execute(lines[1].encode())
        try:
            async with await psycopg.AsyncConnection.connect(url, user="emitter", autocommit=True) as emitter:
                id_ = await new(emitter)
                await emitter.execute("SELECT ff_submit_execution(%s)", (id_,))
                await emitter.execute("SELECT ff_emit_completion(%s, 'success', result => 'secret')", (id_,))
                for forbidden in (
                    "SELECT result FROM ff_exec_core",
                    "SELECT * FROM ff_completion_event",
                    "DELETE FROM ff_completion_event",
                    "SELECT ff_prune_completions('1 s')",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        await emitter.execute(forbidden.encode())
        finally:
            await conn.execute("DROP OWNED BY emitter")
            await conn.execute("DROP ROLE emitter")
