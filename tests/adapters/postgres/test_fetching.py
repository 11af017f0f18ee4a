"""Rows as the driver gives them."""

from __future__ import annotations

import uuid

import psycopg
from psycopg import AsyncConnection

import ffcompletion as ffc
from tests.adapters.postgres.conftest import PLAIN
from tests.worlds import PostgresWorld, done, nothing


async def test_bytes_that_are_no_text_cost_their_row_alone(postgres18_url: str) -> None:
    """A database without an encoding: such a row is skipped and counted, such a record is undecided."""
    name = f"ascii_{uuid.uuid4().hex}"
    async with await AsyncConnection.connect(postgres18_url, autocommit=True) as conn:
        await conn.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'".encode())
        try:
            url = postgres18_url.replace("/postgres?", f"/{name}?")
            with psycopg.connect(url, autocommit=True) as own:
                own.execute(PLAIN.encode())
            world = PostgresWorld(18, f"{url}&client_encoding=UTF8")
            async with world.backend() as backend, ffc.subscribe(backend) as stream:
                await world.sql(
                    "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                    " VALUES (1, gen_random_uuid(), convert_from('\\xff', 'SQL_ASCII'), 0)"
                )
                await nothing(stream, done(), world)
                assert backend.stats().malformed == 1
                assert backend.stats().reconnects == 0
                # Nor does it keep anybody from being described: it is the one text that is not told.
                good, odd = done(namespace="a"), done(namespace="a")
                await world.announce(good, odd)
                await world.sql(
                    "UPDATE ff_exec_core SET raw_fields = jsonb_build_object('namespace', convert_from('\\xff', 'SQL_ASCII'))"
                    " WHERE execution_id = %s",
                    (ffc.ExecutionId(odd.execution_id).uuid,),
                )
                beside = [f"{{fp:{number}}}:{uuid.uuid4()}" for number in range(20)]
                for more in ([], beside):
                    told = await backend.describe_executions([odd.execution_id, good.execution_id, *more])
                    assert [one and (one.namespace, one.terminal_outcome) for one in told[:2]] == [
                        (None, "success"), ("a", "success")
                    ]  # fmt: skip
            await world.close()
        finally:
            await conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
