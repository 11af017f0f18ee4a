"""The engine's own consumer, in a hundred lines: when an execution finishes, release what was waiting for it.

    python examples/dag_promoter.py postgresql://localhost/app

Two tables hold the graph. Each completion is handled in one transaction that can be repeated without harm, so "at
least once" from the stream becomes "once" in the graph, however often this program is killed.
"""

from __future__ import annotations

import asyncio
import sys

import psycopg

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresCheckpoints

TABLES = """
CREATE TABLE IF NOT EXISTS dag_node (
    execution_id text PRIMARY KEY,
    state        text NOT NULL DEFAULT 'blocked' CHECK (state IN ('blocked', 'ready', 'done', 'unreachable')),
    released     int  NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS dag_edge (
    upstream   text NOT NULL REFERENCES dag_node,
    downstream text NOT NULL REFERENCES dag_node,
    PRIMARY KEY (upstream, downstream)
);
CREATE INDEX IF NOT EXISTS dag_edge_downstream ON dag_edge (downstream);
"""

# A node that was done stays done: the second time, nothing matches.
FINISH = "UPDATE dag_node SET state = 'done' WHERE execution_id = %s AND state <> 'done' RETURNING execution_id"

# Those whose last unfinished upstream this was. Locked in one order, so that two of them finishing at once, in two
# promoters, do not deadlock, and the second sees what the first did.
CANDIDATES = """
SELECT execution_id FROM dag_node
 WHERE execution_id IN (SELECT downstream FROM dag_edge WHERE upstream = %s) AND state = 'blocked'
 ORDER BY execution_id FOR UPDATE
"""
RELEASE = """
UPDATE dag_node SET state = 'ready', released = released + 1
 WHERE execution_id = ANY(%s) AND state = 'blocked' AND NOT EXISTS (
       SELECT FROM dag_edge JOIN dag_node AS above ON above.execution_id = dag_edge.upstream
        WHERE dag_edge.downstream = dag_node.execution_id AND above.state <> 'done')
RETURNING execution_id
"""
# What comes after something that did not succeed never runs, however far down.
GIVE_UP = """
WITH RECURSIVE below AS (
    SELECT downstream FROM dag_edge WHERE upstream = %s
    UNION
    SELECT dag_edge.downstream FROM dag_edge JOIN below ON dag_edge.upstream = below.downstream)
UPDATE dag_node SET state = 'unreachable'
 WHERE state = 'blocked' AND execution_id IN (SELECT downstream FROM below)
RETURNING execution_id
"""

Connection = psycopg.AsyncConnection[tuple[str]]


async def promote(conn: Connection, completion: ffc.CompletionPayload) -> list[str]:
    """One completion's consequences, in one transaction; what was released."""
    async with conn.transaction():
        if completion.kind is not ffc.Outcome.SUCCESS:
            await conn.execute(GIVE_UP, [completion.execution_id])
            return []
        await conn.execute(FINISH, [completion.execution_id])
        cursor = await conn.execute(CANDIDATES, [completion.execution_id])
        candidates = [execution_id for (execution_id,) in await cursor.fetchall()]
        cursor = await conn.execute(RELEASE, [candidates])
        return [execution_id for (execution_id,) in await cursor.fetchall()]


async def main(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute(TABLES)
        async with ffc.connect(url) as backend, PostgresCheckpoints(url) as store:
            # The first run begins with everything the outbox still has: those completions count as well.
            beginning = ffc.StreamCursor.beginning()
            async with ffc.checkpointed(backend, store, "dag-promoter", start=beginning) as completions:
                async for completion in completions:
                    for execution_id in await promote(conn, completion):
                        print(f"ready: {execution_id}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
