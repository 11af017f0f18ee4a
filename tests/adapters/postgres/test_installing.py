"""Installing the producer, and taking it away."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

import ffcompletion as ffc
from ffcompletion.producers import install, prune, uninstall
from tests.adapters.produced import connected


async def test_the_engines_own_tables_are_left_alone(postgres18_url: str) -> None:
    """Neither installed beside nor uninstalled."""
    assert "nothing was changed" in await install(postgres18_url)
    assert "nothing was changed" in await uninstall(postgres18_url)
    async with await psycopg.AsyncConnection.connect(postgres18_url) as conn:
        await conn.execute("SELECT FROM ff_completion_event LIMIT 1")


async def test_no_table_of_another_schema_stands_in(url: str) -> None:
    """A caller's search_path, and a temporary table of the same name, change nothing."""
    async with connected(url) as (backend, conn):
        await conn.execute("CREATE TEMP TABLE ff_completion_event (LIKE public.ff_completion_event)")
        await conn.execute("CREATE SCHEMA decoy CREATE TABLE ff_exec_core (LIKE public.ff_exec_core)")
        await conn.execute("SET search_path = decoy, pg_temp")
        id_ = ffc.ExecutionId.new()
        await conn.execute("SELECT public.ff_emit_completion(%s, 'success')", (id_,))
        assert (await ffc.wait_for_completion(backend, id_, timeout=20)).outcome == "success"


async def test_uninstalling_leaves_nothing_and_installing_works_again(url: str) -> None:
    """Twice each; and a schema without the producer says what to run."""
    listing = (
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        assert "are gone" in await uninstall(url)
        assert await (await conn.execute(listing)).fetchall() == []
        assert "nothing is installed" in await uninstall(url)
        with pytest.raises(ffc.Unavailable, match="producers install"):
            await prune(url, timedelta(hours=1))
        await conn.execute('CREATE SCHEMA "other ""one"')
        for _ in range(2):
            assert "ready" in await install(url, schema='other "one')
        await conn.execute("""SELECT "other ""one".ff_submit_execution("other ""one".ff_new_execution_id())""")
        assert await prune(url, timedelta(0), unfinished=timedelta(0), schema='other "one') == 1
        assert "are gone" in await uninstall(url, schema='other "one')
        assert await (await conn.execute(listing)).fetchall() == []
