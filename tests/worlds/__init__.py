"""The worlds that tests run in: a backend, a server where it needs one, and ways to make things happen there.

Announcing follows the wire by hand (raw INSERT, raw HSET and PUBLISH), never our own producers.
"""

from __future__ import annotations

import asyncio
import binascii
import itertools
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from psycopg import AsyncConnection
from typing_extensions import override

from ffcompletion.backends.memory import MemoryBackend
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.valkey import ValkeyBackend
from ffcompletion.backends.valkey.connection import Client, make_client
from ffcompletion.backends.valkey.options import Options
from ffcompletion.contract.ids import ExecutionId, FlowId, flow_partition
from ffcompletion.contract.protocols import Backend
from tests.worlds.emptying import empty

FLOW = "a76a8496-6e9c-457a-8727-b5169796f3cd"
_numbers = itertools.count(1)


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A completion that is about to happen."""

    execution_id: str
    outcome: str = "success"
    flow_id: str | None = FLOW
    namespace: str | None = None
    tags: Mapping[str, str] = {}
    result: bytes | None = None


def done(**fields: Any) -> Done:
    """One that no test has used before."""
    number = next(_numbers)
    return Done(execution_id=f"{{fp:{number % 256}}}:{uuid.UUID(int=number << 64 | uuid.uuid4().node)}", **fields)


def member(flow: str, **fields: Any) -> Done:
    """One of a flow: in the flow's partition, as the engine places them."""
    item = done(flow_id=flow, **fields)
    partition = flow_partition(FlowId(flow), 256)
    return msgspec.structs.replace(item, execution_id=f"{{fp:{partition}}}:{ExecutionId(item.execution_id).uuid}")


class World(ABC):
    """A backend's surroundings."""

    name: str
    networked = True
    resumable = True

    @abstractmethod
    def backend(self, **options: Any) -> Backend:
        """A backend to be closed by the caller."""

    @abstractmethod
    async def announce(self, *completions: Done) -> None:
        """Make them happen, in order, each on its own."""

    @abstractmethod
    async def begins(self, item: Done) -> None:
        """It is recorded, and has not finished (or is replayed: it runs again)."""

    @abstractmethod
    async def ends(self, item: Done, *, silently: bool = False) -> None:
        """It finishes as the engine would have it; silently: the state says so, and nothing is announced."""

    @abstractmethod
    async def joins(self, flow: str, *items: Done) -> None:
        """They begin, as members of a flow."""

    @abstractmethod
    async def connections(self) -> int:
        """How many connections readers hold on the server."""

    @abstractmethod
    async def drop_connections(self) -> None:
        """Cut every reader's connections from the server's side."""

    async def reset(self) -> None:  # noqa: B027  # nothing to do is a fine default
        """An empty world."""

    async def forget(self) -> None:  # noqa: B027  # the same
        """The server was restarted: the next command connects anew."""

    async def close(self) -> None:
        """Let go of it."""
        await self.forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class MemoryWorld(World):
    name = "memory"
    networked = False

    def __init__(self) -> None:
        self._last: MemoryBackend | None = None

    @override
    def backend(self, **options: Any) -> Backend:
        self._last = MemoryBackend(**options)
        return self._last

    @override
    async def announce(self, *completions: Done) -> None:
        assert self._last is not None
        for item in completions:
            self._last.emit(
                item.execution_id,
                item.outcome,
                flow_id=item.flow_id,
                namespace=item.namespace,
                tags=item.tags,
                payload_bytes=item.result,
            )

    @override
    async def begins(self, item: Done) -> None:
        assert self._last is not None
        self._last.submit(item.execution_id, flow_id=item.flow_id, namespace=item.namespace, tags=item.tags)

    @override
    async def ends(self, item: Done, *, silently: bool = False) -> None:
        # Nothing is silent here: the backend is its own producer.
        await self.announce(item)

    @override
    async def joins(self, flow: str, *items: Done) -> None:
        for item in items:
            await self.begins(msgspec.structs.replace(item, flow_id=flow))

    @override
    async def connections(self) -> int:
        assert self._last is not None
        return self._last.stats().streams

    @override
    async def drop_connections(self) -> None:
        pass


class PostgresWorld(World):
    def __init__(self, version: int, url: str) -> None:
        self.name = f"postgres{version}"
        self.url = url
        self._conn: AsyncConnection[tuple[Any, ...]] | None = None
        self._lent: list[AsyncConnection[tuple[Any, ...]]] = []

    @override
    def backend(self, **options: Any) -> Backend:
        return PostgresBackend(self.url, **options)

    async def connect(self, **options: Any) -> AsyncConnection[tuple[Any, ...]]:
        """A connection for a writer; closed with the world, if the test has not done so."""
        options.setdefault("autocommit", True)
        conn = await AsyncConnection.connect(self.url, application_name="test", **options)
        self._lent.append(conn)
        return conn

    async def sql(self, query: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        if self._conn is None or self._conn.closed or self._conn.broken:
            self._conn = await self.connect()
        cursor = await self._conn.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []

    @override
    async def announce(self, *completions: Done) -> None:
        for item in completions:
            if self._conn is None or self._conn.closed or self._conn.broken:
                self._conn = await self.connect()
            async with self._conn.transaction():
                await insert(self._conn, item)

    @override
    async def begins(self, item: Done) -> None:
        partition, _, bare = item.execution_id[4:].partition("}:")
        fields = {"tags": dict(item.tags), **({} if item.namespace is None else {"namespace": item.namespace})}
        await self.sql(
            "INSERT INTO ff_exec_core (partition_key, execution_id, flow_id, lane_id, lifecycle_phase, public_state,"
            " created_at_ms, raw_fields) VALUES (%s, %s, %s, 'default', 'active', 'running', 0, %s)"
            " ON CONFLICT (partition_key, execution_id) DO UPDATE SET lifecycle_phase = 'active', terminal_at_ms = NULL,"
            " result = NULL",
            (partition, bare, item.flow_id, json.dumps(fields)),
        )

    @override
    async def ends(self, item: Done, *, silently: bool = False) -> None:
        partition, _, bare = item.execution_id[4:].partition("}:")
        conn = await self.connect()
        async with conn.transaction():
            await conn.execute(
                "UPDATE ff_exec_core SET lifecycle_phase = %s, terminal_at_ms = 1700000000000, result = %s"
                " WHERE partition_key = %s AND execution_id = %s",
                ("cancelled" if item.outcome == "cancelled" else "terminal", item.result, partition, bare),
            )
            if not silently:
                await insert(conn, item, core=False)
        await conn.close()

    async def cancels(self, *items: Done) -> int:
        """As the engine cancels: from now on the records are terminal, and no row is written. When that was, in ms."""
        names = [item.execution_id[4:].partition("}:") for item in items]
        rows = await self.sql(
            "UPDATE ff_exec_core c SET lifecycle_phase = 'cancelled', cancellation_reason = 'asked', result = v.result,"
            " terminal_at_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
            " FROM unnest(%s::smallint[], %s::uuid[], %s::bytea[]) AS v(key, id, result)"
            " WHERE c.partition_key = v.key AND c.execution_id = v.id RETURNING c.terminal_at_ms",
            ([name[0] for name in names], [name[2] for name in names], [item.result for item in items]),
        )
        return int(rows[-1][0])

    @override
    async def joins(self, flow: str, *items: Done) -> None:
        for item in items:
            await self.begins(msgspec.structs.replace(item, flow_id=flow))

    @override
    async def connections(self) -> int:
        rows = await self.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ffcompletion'")
        return int(rows[0][0])

    @override
    async def drop_connections(self) -> None:
        await self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ffcompletion'")

    @override
    async def reset(self) -> None:
        empty(self.url)

    @override
    async def forget(self) -> None:
        self._conn, lent, self._lent = None, self._lent, []
        for conn in lent:
            await conn.close()


async def insert(conn: AsyncConnection[Any], item: Done, *, core: bool = True) -> int:
    """The rows that the engine writes for one completion, inside the caller's transaction; the event's id."""
    partition, _, bare = item.execution_id[4:].partition("}:")
    if core:
        fields: dict[str, Any] = {"tags": dict(item.tags)}
        if item.namespace is not None:
            fields["namespace"] = item.namespace
        await conn.execute(
            "INSERT INTO ff_exec_core (partition_key, execution_id, flow_id, lane_id, lifecycle_phase, public_state,"
            " created_at_ms, terminal_at_ms, result, raw_fields) VALUES (%s, %s, %s, 'default', 'terminal', 'running',"
            " 0, 1, %s, %s) ON CONFLICT DO NOTHING",
            (partition, bare, item.flow_id, item.result, json.dumps(fields)),
        )
    cursor = await conn.execute(
        "INSERT INTO ff_completion_event (partition_key, execution_id, flow_id, outcome, occurred_at_ms)"
        " VALUES (%s, %s, %s, %s, 1700000000000) RETURNING event_id",
        (partition, bare, item.flow_id, item.outcome),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


FINISH = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[7]
local at = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'flow_id', ARGV[2], 'lane_id', 'default', 'lifecycle_phase', 'terminal',
    'terminal_outcome', ARGV[4], 'completed_at', at)
redis.call('HSETNX', KEYS[1], 'replay_count', '0')
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'namespace', ARGV[3]) end
for i = 8, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5]) end
redis.call('ZADD', KEYS[4], at, ARGV[1])
if ARGV[6] ~= '' then redis.call('PUBLISH', 'ff:dag:completions', ARGV[6]) end
return now
"""


def hash_tag(execution_id: str) -> str:
    """What the engine writes before a key's id: ``{fp:+007}:…`` is kept under ``{fp:7}``."""
    return f"{{fp:{ExecutionId(execution_id).partition}}}"


class ValkeyWorld(World):
    name = "valkey"
    resumable = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Client | None = None
        self._making = asyncio.Lock()

    @override
    def backend(self, **options: Any) -> Backend:
        return ValkeyBackend(self.url, **options)

    async def command(self, *words: str | bytes | bytearray | memoryview) -> object:
        # Several may be the first at once.
        async with self._making:
            if self._client is None:
                self._client = await make_client(Options.from_url(self.url))
        return await self._client.custom_command(list(words))

    async def write(self, item: Done) -> None:
        """The keys that the engine writes, without the announcement."""
        tag = hash_tag(item.execution_id)
        key = f"ff:exec:{tag}:{item.execution_id}"
        fields = {
            "flow_id": item.flow_id or "",
            "lane_id": "default",
            "lifecycle_phase": "terminal",
            "terminal_outcome": item.outcome,
            "completed_at": "1700000000000",
        }
        if item.namespace is not None:
            fields["namespace"] = item.namespace
        await self.command("HSET", f"{key}:core", *itertools.chain.from_iterable(fields.items()))
        for name, value in item.tags.items():
            await self.command("HSET", f"{key}:tags", name, value)
        if item.result is not None:
            await self.command("SET", f"{key}:result", item.result)

    async def finish(self, item: Done, *, lane: str = "default", push: bool = True, skew_ms: int = 0) -> int:
        """All that the engine does when an execution ends, in one call: keys, index, announcement. Its score."""
        tag = hash_tag(item.execution_id)
        key = f"ff:exec:{tag}:{item.execution_id}"
        keys = [f"{key}:core", f"{key}:tags", f"{key}:result", f"ff:idx:{tag}:lane:{lane}:terminal"]
        message = {"flow_id": item.flow_id, "outcome": item.outcome, "execution_id": item.execution_id}
        score = await self.command(
            "EVAL", FINISH, str(len(keys)), *keys, item.execution_id, item.flow_id or "", item.namespace or "",
            item.outcome, item.result or "", json.dumps(message) if push and item.flow_id else "", str(skew_ms),
            *itertools.chain.from_iterable(item.tags.items()),
        )  # fmt: skip
        assert isinstance(score, int)
        return score

    @override
    async def begins(self, item: Done) -> None:
        tag = hash_tag(item.execution_id)
        core = f"ff:exec:{tag}:{item.execution_id}:core"
        if await self.command("EXISTS", core):
            await self.replay(item)
            return
        fields = {"flow_id": item.flow_id or "", "lane_id": "default", "lifecycle_phase": "active",
                  "terminal_outcome": "none", "completed_at": ""}  # fmt: skip
        await self.command("HSET", core, *itertools.chain.from_iterable(fields.items()))

    @override
    async def ends(self, item: Done, *, silently: bool = False) -> None:
        await self.finish(item, push=not silently)

    @override
    async def joins(self, flow: str, *items: Done) -> None:
        key = f"ff:flow:{{fp:{binascii.crc_hqx(uuid.UUID(flow).bytes, 0) % 256}}}:{flow}:members"
        for item in items:
            await self.begins(msgspec.structs.replace(item, flow_id=flow))
            await self.command("SADD", key, item.execution_id)

    async def replay(self, item: Done, lane: str = "default") -> None:
        """Terminal → runnable."""
        tag = hash_tag(item.execution_id)
        core = f"ff:exec:{tag}:{item.execution_id}:core"
        await self.command("HSET", core, "lifecycle_phase", "runnable", "terminal_outcome", "none", "completed_at", "")
        await self.command("HINCRBY", core, "replay_count", "1")
        await self.command("ZREM", f"ff:idx:{tag}:lane:{lane}:terminal", item.execution_id)

    @override
    async def announce(self, *completions: Done) -> None:
        for item in completions:
            await self.write(item)
            if item.flow_id is not None:
                await self.publish(item)

    async def publish(self, item: Done) -> None:
        message = {"flow_id": item.flow_id, "outcome": item.outcome, "execution_id": item.execution_id}
        await self.command("PUBLISH", "ff:dag:completions", json.dumps(message, separators=(",", ":")))

    @override
    async def connections(self) -> int:
        listed = await self.command("CLIENT", "LIST")
        text = listed.decode() if isinstance(listed, bytes) else str(listed)
        # Every glide client, less this world's own.
        return text.count("lib-name=") - 1

    @override
    async def drop_connections(self) -> None:
        await self.command("CLIENT", "KILL", "TYPE", "pubsub")

    @override
    async def reset(self) -> None:
        await self.command("FLUSHALL")

    @override
    async def forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def eventually(what: Any, seconds: float = 30.0) -> None:
    """Wait until ``what()`` (plain or async) is true; a deadline instead of a hope."""
    async with asyncio.timeout(seconds):
        while True:
            answer = what()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.01)


class Patience:
    """For whoever gets on, however slowly: it ends once nothing has changed for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: int | None = None
        self._end = 0.0

    def lasts(self, count: int) -> bool:
        """Whether to go on waiting; ``count``: what changes where somebody gets on."""
        now = time.monotonic()
        if count != self._seen:
            self._seen, self._end = count, now + self._seconds
        return now < self._end


async def first(stream: Any, seconds: float = 30.0) -> Any:
    """The next completion, within a deadline."""
    return await asyncio.wait_for(stream.__anext__(), seconds)


async def some(stream: Any, count: int, seconds: float = 30.0) -> list[Any]:
    """The next ``count`` completions, within a deadline."""
    async with asyncio.timeout(seconds):
        return [await stream.__anext__() for _ in range(count)]


async def nothing(stream: Any, marker: Done, world: World) -> None:
    """Prove that nothing waits in the stream: announce a marker that it must get, and see that it comes first."""
    await world.announce(marker)
    assert (await first(stream)).execution_id == marker.execution_id
