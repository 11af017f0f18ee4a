"""What a session finds out about a server before it is used."""

from __future__ import annotations

import asyncio

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from tests.worlds import PostgresWorld, done, first, nothing


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("", 'no right to use the schema; GRANT USAGE ON SCHEMA "engine" TO "reader"'),
        ("GRANT USAGE ON SCHEMA engine TO reader", "no right to read the outbox; GRANT SELECT ON"),
        (
            "GRANT USAGE ON SCHEMA engine TO reader; GRANT SELECT ON engine.ff_completion_event TO reader",
            'GRANT SELECT ON "engine"."ff_exec_core" TO "reader"',
        ),
    ],
)
async def test_a_missing_right_is_named(postgres: PostgresWorld, setup: str, message: str) -> None:
    """With the GRANT that mends it; and with CONNECT, USAGE and SELECT alone everything works."""
    await postgres.sql("DROP SCHEMA IF EXISTS engine CASCADE; DROP ROLE IF EXISTS reader")
    await postgres.sql("CREATE SCHEMA engine; CREATE ROLE reader LOGIN")
    await postgres.sql(
        "CREATE TABLE engine.ff_completion_event (LIKE public.ff_completion_event INCLUDING ALL);"
        "CREATE TABLE engine.ff_exec_core (LIKE public.ff_exec_core INCLUDING ALL)"
    )
    try:
        if setup:
            await postgres.sql(setup)
        url = postgres.url.replace("postgres@", "reader@", 1)
        async with PostgresBackend(url, schema="engine", poll_interval=0.1) as backend:
            with pytest.raises(ffc.Unavailable) as caught:
                await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
            assert message in str(caught.value)
            await postgres.sql(
                "GRANT USAGE ON SCHEMA engine TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA engine TO reader"
            )
            async with ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream:
                await postgres.sql(
                    "INSERT INTO engine.ff_completion_event (partition_key, execution_id, outcome, namespace,"
                    " occurred_at_ms) VALUES (7, gen_random_uuid(), 'success', 'a', 0)"
                )
                assert (await first(stream)).outcome == "success"
    finally:
        await postgres.sql("DROP SCHEMA engine CASCADE; DROP ROLE reader")


async def test_a_schema_without_the_tables(postgres: PostgresWorld) -> None:
    """No schema, no outbox, no core: named, with the remedy."""
    async with PostgresBackend(postgres.url, schema="nowhere") as backend:
        with pytest.raises(ffc.Unavailable, match="no schema 'nowhere'"):
            await backend.subscribe_completions()
    async with PostgresBackend(postgres.url, schema="pg_catalog") as backend:
        with pytest.raises(ffc.Unavailable, match="producers install"):
            await backend.subscribe_completions()
    await postgres.sql("CREATE SCHEMA IF NOT EXISTS bare")
    await postgres.sql("CREATE TABLE IF NOT EXISTS bare.ff_completion_event (LIKE ff_completion_event INCLUDING ALL)")
    async with PostgresBackend(postgres.url, schema="bare") as backend:
        async with ffc.subscribe(backend):
            pass
        with pytest.raises(ffc.Unavailable, match="ff_exec_core"):
            await backend.subscribe_completions_filtered(ffc.ScannerFilter("a"))
    await postgres.sql("DROP SCHEMA bare CASCADE")


async def test_a_sequence_that_keeps_ids_in_store_is_refused(database: PostgresWorld) -> None:
    """CACHE 50: ids come late in later transactions, and nothing would tell; the remedy is named."""
    await database.sql("ALTER TABLE ff_completion_event ALTER event_id SET CACHE 50")
    async with database.backend() as backend:
        with pytest.raises(ffc.Unavailable, match=r"CACHE 50.*SET CACHE 1"):
            await backend.subscribe_completions()
        await database.sql("ALTER TABLE ff_completion_event ALTER event_id SET CACHE 1")
        async with ffc.subscribe(backend) as stream:
            await nothing(stream, done(), database)


async def test_a_view_is_refused(postgres: PostgresWorld) -> None:
    """Writers lock the table behind it, so that rows which commit late would be given up, and not be told of."""
    await postgres.sql("CREATE SCHEMA seen; CREATE VIEW seen.ff_completion_event AS TABLE public.ff_completion_event")
    try:
        async with PostgresBackend(postgres.url, schema="seen") as backend:
            with pytest.raises(
                ffc.Unavailable, match=r'"seen"\."ff_completion_event" is a view or a foreign table.*schema='
            ):
                await backend.subscribe_completions()
    finally:
        await postgres.sql("DROP SCHEMA seen CASCADE")


async def test_settings_of_a_role_do_not_hold_for_our_own_connections(postgres: PostgresWorld) -> None:
    """Those that would end an idle session, keep a read waiting, or read a NULL as a text: what ends in silence is found."""
    await postgres.sql("CREATE ROLE odd LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO odd")
    settings = {
        "array_nulls": "off",
        "idle_session_timeout": "200ms",
        "lock_timeout": "1ms",
        "default_transaction_isolation": "serializable",
        **({"transaction_timeout": "500ms"} if postgres.name == "postgres18" else {}),
    }
    for name, value in settings.items():
        await postgres.sql(f"ALTER ROLE odd SET {name} = '{value}'")
    try:
        url = postgres.url.replace("postgres@", "odd@", 1)
        async with (
            PostgresBackend(url, poll_interval=10, reconcile_interval=0.1) as backend,
            ffc.subscribe(backend, ffc.ScannerFilter("a")) as stream,
        ):
            await postgres.begins(item := done(namespace="a"))
            await asyncio.sleep(0.5)
            await postgres.cancels(item)
            assert (await first(stream)).execution_id == item.execution_id
            assert backend.stats().reconnects == 0
    finally:
        await postgres.sql("DROP OWNED BY odd; DROP ROLE odd")
