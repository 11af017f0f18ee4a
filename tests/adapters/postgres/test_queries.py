"""What our questions cost the server: plans, whatever the statistics say."""

from __future__ import annotations

from tests.worlds import PostgresWorld


async def test_no_plan_joins_or_goes_parallel_whatever_the_statistics_say(engine256: PostgresWorld) -> None:
    """The texts that run at a wake: probes by key, on tables that nobody has analyzed and on ones that somebody has."""
    from ffcompletion.backends.postgres.queries import Queries

    queries = Queries(None)
    conn = await engine256.connect()
    for number in range(2):
        if number:
            await conn.execute("ANALYZE ff_completion_event")
            await conn.execute("ANALYZE ff_exec_core")
        for query, values in (
            (queries.picked(), "'{5,6}'::bigint[]"),
            (queries.records(results=False), "'{1,2,3,4}'::smallint[], '{}'::uuid[]"),
            (queries.records_in_partition(results=False), "1, '{}'::uuid[]"),
        ):
            await conn.execute("SET plan_cache_mode = force_generic_plan")
            text = query.text.decode()
            marks = text.count("%s")
            for at in range(marks):
                text = text.replace("%s", f"${at + 1}", 1)
            await conn.execute(f"PREPARE looked AS {text}".encode())
            plan = await (await conn.execute(f"EXPLAIN EXECUTE looked({values})".encode())).fetchall()
            await conn.execute("DEALLOCATE looked")
            lines = "\n".join(row[0] for row in plan)
            assert "Hash Join" not in lines
            assert "Gather" not in lines
            assert "Merge Append" not in lines
    await conn.close()


async def test_partitions_are_scanned_for_plain_columns(engine256: PostgresWorld) -> None:
    """What is made of them is made once, above: the scan of each of 256 would prepare to make it at every wake."""
    from ffcompletion.backends.postgres.queries import Queries

    queries = Queries(None)
    async with await engine256.connect() as conn:
        for query, values in ((queries.picked(), ([5],)), (queries.page(), (5, 10))):
            cursor = await conn.execute(b"EXPLAIN (VERBOSE) " + query.text, values)
            lines = [row[0].strip() for row in await cursor.fetchall()]
            scanned = {line for line in lines if line.startswith("Output: ff_completion_event_")}
            assert scanned
            assert not [line for line in scanned if "CASE" in line or "||" in line]


async def test_few_executions_are_asked_for_in_their_partitions_alone(engine256: PostgresWorld) -> None:
    """Planned anew, over 256 partitions, such a question took 44 ms; also where plans are made without looking at values."""
    from ffcompletion.backends.postgres.queries import Queries

    queries = Queries(None)
    async with await engine256.connect() as conn:
        await conn.execute("SET plan_cache_mode = force_generic_plan")
        for text, values in (
            (queries.described(results=True, among=[(7, 0)]).text, (["0" * 32],)),
            (queries.members(7), ("0" * 32, 10)),
        ):
            cursor = await conn.execute(b"EXPLAIN " + text, values)
            lines = "\n".join(row[0] for row in await cursor.fetchall())
            assert "Append" not in lines
            assert lines.count(" on ff_") == text.count(b'"ff_')
