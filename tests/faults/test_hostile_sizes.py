"""Texts of a hundred megabytes in one tenant's rows and records: none of them comes over the wire, nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from psycopg.conninfo import conninfo_to_dict
from typing_extensions import override

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.valkey import commands as valkey_commands
from ffcompletion.backends.valkey import connection
from ffcompletion.backends.valkey.connection import Client
from ffcompletion.backends.valkey.lengths import TOO_LONG, Lengths
from ffcompletion.backends.valkey.replies import text_of
from tests.worlds import Done, PostgresWorld, ValkeyWorld, done, eventually, first, hash_tag, some
from tests.worlds.proxy import Proxy

MIB = 1 << 20
NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
# Of one character, so that writing it takes no time; the server compresses it to a hundredth.
LARGE = 30_000_000
# Too large for the server to look into, even so.
HUGE = 100_000_000


class Counting(Proxy):
    """Counts what passes towards the client."""

    passed = 0

    @override
    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write = writer.write
        if writer in self._clients:

            def counted(data: bytes | bytearray | memoryview) -> None:
                self.passed += len(data)
                write(data)

            writer.write = counted  # type: ignore[method-assign]  # put in between
        await super()._pipe(reader, writer)

    @override
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        await super()._serve(reader, writer)

    def __init__(self, target: tuple[str, int] | str) -> None:
        super().__init__(target)
        self._clients: set[asyncio.StreamWriter] = set()


@pytest.fixture
async def counting(postgres: PostgresWorld) -> AsyncGenerator[tuple[PostgresWorld, Counting, str]]:
    """The server, what counts before it, and the way through."""
    facts = conninfo_to_dict(postgres.url)
    host, port = str(facts["host"]), int(str(facts["port"]))
    target: tuple[str, int] | str = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
    with Counting(target) as proxy:
        yield postgres, proxy, f"postgresql://{facts['user']}@127.0.0.1:{proxy.port}/{facts['dbname']}"


async def record(world: PostgresWorld, item: Done, fields: str, *, phase: str = "active") -> None:
    """A record with such fields (SQL)."""
    partition, _, bare = item.execution_id[4:].partition("}:")
    await world.sql(
        "INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, terminal_at_ms, raw_fields)"
        f" VALUES ({partition}, '{bare}', 'default', '{phase}', {NOW if phase != 'active' else 'NULL'}, {fields})"
    )


def as_of(item: Done) -> str:
    """The fields of another's record (SQL): as it is stored, which takes no time; the server makes each but once."""
    partition, _, bare = item.execution_id[4:].partition("}:")
    return f"(SELECT raw_fields FROM ff_exec_core WHERE partition_key = {partition} AND execution_id = '{bare}')"


async def row(world: PostgresWorld, item: Done, *, outcome: str = "'success'", namespace: str = "NULL") -> None:
    """A row of the outbox with such texts (SQL)."""
    partition, _, bare = item.execution_id[4:].partition("}:")
    await world.sql(
        "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, namespace, occurred_at_ms)"
        f" VALUES ({partition}, '{bare}', {outcome}, {namespace}, {NOW})"
    )


def of(namespace: str, tags: str = "'{}'::jsonb") -> str:
    return f"jsonb_build_object('namespace', {namespace}, 'tags', {tags})"


async def test_large_texts_stay_at_the_server(counting: tuple[PostgresWorld, Counting, str]) -> None:
    """Live, from the beginning, without a row, and described: what is too large is malformed or undecided, and counted."""
    world, proxy, url = counting
    tag = f"jsonb_build_object('k', repeat('x', {LARGE}))"
    tagged, named, endless, lettered, misnamed = (done(flow_id=None) for _ in range(5))
    await record(world, tagged, of("'mallory'", tag))
    await record(world, named, of(f"repeat('m', {LARGE})"))
    await record(world, endless, of("'mallory'", f"jsonb_build_object('k', repeat('x', {HUGE}))"))
    await record(world, lettered, of("'mallory'"))
    await record(world, misnamed, of("'mallory'"))
    silent = [done(flow_id=None, outcome="cancelled") for _ in range(4)]
    victims = [done(namespace="a", tags={"k": "v"}) for _ in range(6)]
    filters = {
        "mallory": ffc.ScannerFilter("mallory"),
        "tag": ffc.ScannerFilter("mallory", ("k", "v")),
        "a": ffc.ScannerFilter("a", ("k", "v")),
    }
    await world.announce(victims[0])
    async with PostgresBackend(url, reconcile_interval=0.2) as backend:
        everything = await backend.subscribe_completions()
        streams = {name: await backend.subscribe_completions_filtered(wanted) for name, wanted in filters.items()}
        results = await backend.subscribe_completions_filtered(filters["a"], results=True)
        await asyncio.sleep(0)
        proxy.passed = 0
        await world.announce(victims[1])
        for item in (tagged, named, endless):
            await row(world, item)
        await row(world, lettered, outcome=f"repeat('o', {LARGE})")
        await row(world, misnamed, namespace=f"repeat('n', {LARGE})")
        await world.announce(*victims[2:])
        for item, fields in zip(
            silent, (as_of(tagged), as_of(named), of("'mallory'"), of("'a'", '\'{"k":"v"}\'::jsonb')),
            strict=True,
        ):  # fmt: skip
            await record(world, item, fields, phase="cancelled")

        mine = {item.execution_id for item in (*victims[1:], silent[3])}
        for stream in (streams["a"], results):
            assert {item.execution_id for item in await some(stream, len(mine))} == mine
        # Who wants no tag gets those whose tags are too large.
        its = {item.execution_id for item in (tagged, silent[0], silent[2])}
        assert {item.execution_id for item in await some(streams["mallory"], 3)} == its
        whole = {item.execution_id for item in (*victims[1:], tagged, named, endless, *silent)}
        assert {item.execution_id for item in await some(everything, len(whole))} == whole
        await eventually(lambda: streams["a"].stats().undecided == 5)
        assert streams["tag"].stats().undecided >= 4
        assert backend.stats().malformed == 2

        async with ffc.subscribe(backend, filters["a"], cursor=ffc.StreamCursor.beginning()) as stored:
            # What ended without a row is looked for from the cursor's time on.
            whole = {item.execution_id for item in (*victims, silent[3])}
            assert {item.execution_id for item in await some(stored, len(whole))} == whole
        found = await backend.describe_executions([item.execution_id for item in (tagged, named, endless, lettered)])
        assert [None if item is None else (item.namespace, dict(item.tags)) for item in found] == [
            ("mallory", {}),
            (None, {}),
            (None, {}),
            ("mallory", {}),
        ]
        for stream in (everything, results, *streams.values()):
            await stream.aclose()
    # All that there is to know of twenty executions, a few times over.
    assert proxy.passed < MIB


async def test_a_victim_does_not_wait_for_a_large_record(postgres: PostgresWorld) -> None:
    """Ten records that the server would take seconds to read, asked about together with the victim's."""
    hostile = [done(flow_id=None) for _ in range(10)]
    await record(postgres, hostile[0], of("'mallory'", f"jsonb_build_object('k', repeat('x', {HUGE}))"))
    for item in hostile[1:]:
        await record(postgres, item, as_of(hostile[0]))
    async with postgres.backend(reconcile_interval=0) as backend:
        async with ffc.subscribe(backend, ffc.ScannerFilter("a", ("k", "v"))) as stream:
            await postgres.announce(done(namespace="a", tags={"k": "v"}))
            await first(stream)
            names = [item.execution_id[4:].partition("}:") for item in hostile]
            before = await _read_blocks(postgres)
            await postgres.sql(
                "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
                f" SELECT p, id, 'success', {NOW} FROM unnest(%s::smallint[], %s::uuid[]) AS n(p, id)",
                ([name[0] for name in names], [name[2] for name in names]),
            )
            await postgres.announce(victim := done(namespace="a", tags={"k": "v"}))
            assert (await first(stream, 10)).execution_id == victim.execution_id
            assert stream.stats().undecided == 10
            # By pages of the records' storage, and not by time: none of the large values was fetched.
            assert await _read_blocks(postgres) - before < 50


async def _read_blocks(world: PostgresWorld) -> int:
    """Pages of large values that all sessions have read since the server was started."""
    # What this one read, to copy them, is told at once.
    await world.sql("SELECT pg_stat_force_next_flush()")
    ((count,),) = await world.sql(
        "SELECT coalesce(sum(coalesce(toast_blks_read, 0) + coalesce(toast_blks_hit, 0)), 0)"
        " FROM pg_statio_all_tables WHERE relname LIKE 'ff_exec_core%'"
    )
    return int(count)


# ── Valkey ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _sent(world: ValkeyWorld) -> int:
    """Bytes that the server has sent to all its clients."""
    told = await world.command("INFO", "stats")
    assert isinstance(told, bytes)
    (line,) = [line for line in told.splitlines() if line.startswith(b"total_net_output_bytes:")]
    return int(line.partition(b":")[2])


@pytest.mark.parametrize("may_measure", [True, False])
async def test_long_fields_are_not_read_again_and_again(valkey: ValkeyWorld, may_measure: bool) -> None:
    """Once one has come, lengths are asked first: live, in the index, in whatever number they are announced."""
    rights = ["on", ">pw", "allkeys", "allchannels", "allcommands"] + ([] if may_measure else ["-hstrlen"])
    await valkey.command("ACL", "SETUSER", "reader", "reset", *rights)
    size = 4 * MIB if may_measure else MIB
    named, tagged, ended = (done(namespace="mallory", tags={"k": "v"}) for _ in range(3))
    for item in (named, tagged, ended):
        await valkey.write(item)
    key = "ff:exec:{0}:{1}:{2}".format
    await valkey.command("HSET", key(hash_tag(named.execution_id), named.execution_id, "core"), "namespace", "m" * size)
    await valkey.command("HSET", key(hash_tag(tagged.execution_id), tagged.execution_id, "tags"), "k", "x" * size)
    core = key(hash_tag(ended.execution_id), ended.execution_id, "core")
    try:
        async with valkey.backend(username="reader", password="pw", reconcile_interval=0.2) as backend:
            wanted = {"mallory": ffc.ScannerFilter("mallory"), "tag": ffc.ScannerFilter("mallory", ("k", "v"))}
            streams = {name: await backend.subscribe_completions_filtered(each) for name, each in wanted.items()}
            victim = await backend.subscribe_completions_filtered(ffc.ScannerFilter("a", ("k", "v")))

            async def announce(times: int) -> None:
                for _ in range(times):
                    for item in (named, tagged):
                        await valkey.publish(item)
                await valkey.finish(mine := done(namespace="a", tags={"k": "v"}))
                assert (await first(victim)).execution_id == mine.execution_id

            await announce(1)
            before = await _sent(valkey)
            await announce(50)
            # And one that is met in the index alone.
            await valkey.command("HSET", core, "terminal_outcome", "o" * size)
            now = await valkey.command("TIME")
            assert isinstance(now, list)
            index = f"ff:idx:{hash_tag(ended.execution_id)}:lane:default:terminal"
            await valkey.command("ZADD", index, str(int(now[0]) * 1000 + int(now[1]) // 1000), ended.execution_id)
            await valkey.finish(mine := done(namespace="a", tags={"k": "v"}), push=False)
            assert (await first(victim)).execution_id == mine.execution_id
            if may_measure:
                assert await _sent(valkey) - before < MIB
            assert [item.execution_id for item in await some(streams["mallory"], 51)] == [tagged.execution_id] * 51
            assert streams["mallory"].stats().undecided == 51
            assert streams["tag"].stats().undecided == 102
            assert victim.stats().undecided == 102
            found = await backend.describe_execution(named.execution_id)
            assert found is not None
            assert found.namespace is None
            for stream in (victim, *streams.values()):
                await stream.aclose()
    finally:
        await valkey.command("ACL", "DELUSER", "reader")


async def test_answers_with_long_fields_are_put_together() -> None:
    """Whatever is asked beside them: the same answers as without them, but for those."""
    fields = {("a", "x"): b"1", ("a", "y"): b"2" * 5_000, ("b", "x"): b"3" * 5_000, ("c", "x"): None}
    asked: list[str] = []

    async def execute(commands: Sequence[Sequence[str]]) -> list[object]:
        replies: list[object] = []
        for name, key, *names in commands:
            asked.append(name)
            values = [fields.get((key, field)) for field in names]
            if name == "HSTRLEN":
                replies.append(len(values[0] or b""))
            else:
                replies.append(values if name == "HMGET" else values[0] if name == "HGET" else key)
        return replies

    commands = [
        ("HGET", "a", "x"), ("PING", "pong"), ("HMGET", "a", "x", "y", "z"), ("HGET", "b", "x"), ("HMGET", "b", "x"),
        ("HGET", "c", "x"), ("HMGET", "c", "x", "y"),
    ]  # fmt: skip
    lengths = Lengths()
    expected = [b"1", "pong", [b"1", TOO_LONG, None], TOO_LONG, [TOO_LONG], None, [None, None]]
    assert list(await lengths.execute(commands, execute)) == expected
    assert "HSTRLEN" not in asked
    asked.clear()
    assert list(await lengths.execute(commands, execute)) == expected
    assert asked.count("HSTRLEN") == 9
    assert asked.count("HGET") == 2
    assert text_of(TOO_LONG) is None


async def test_lengths_are_asked_after_a_question_that_failed() -> None:
    asked: list[str] = []

    async def execute(commands: Sequence[Sequence[str]]) -> list[object]:
        asked.extend(command[0] for command in commands)
        if len(asked) == 1:
            raise TimeoutError
        return [1 if command[0] == "HSTRLEN" else b"v" for command in commands]

    lengths = Lengths()
    with pytest.raises(TimeoutError):
        await lengths.execute([("HGET", "a", "x")], execute)
    assert await lengths.execute([("HGET", "a", "x")], execute) == [b"v"]
    assert asked == ["HGET", "HSTRLEN", "HGET"]


@pytest.mark.parametrize("rights", ["reader", "all"])
async def test_an_executions_tags_are_bounded_before_they_are_asked_for(
    valkey: ValkeyWorld, rights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many, too large a value, too large a name: none is told, nothing of it is sent, and the others' are."""
    replies: list[object] = []
    real = connection.batch

    async def batch(client: Client, asked: Sequence[Sequence[str]], *, patience: int) -> list[object]:
        answers = await real(client, asked, patience=patience)
        replies.extend(answers)
        return answers

    monkeypatch.setattr(valkey_commands, "batch", batch)
    fine = [done(namespace="a", tags={"k": "v" * 4_000, **{f"t{n}": "x" for n in range(100)}}), done(tags={"k": "v"})]
    hostile = [done(namespace="b") for _ in range(3)]
    bare = done(namespace="a")
    for item in (*fine, *hostile, bare):
        await valkey.write(item)
    many, value, name = [f"ff:exec:{hash_tag(item.execution_id)}:{item.execution_id}:tags" for item in hostile]
    await valkey.command("HSET", many, *[word for n in range(50_000) for word in (f"f{n}", "x" * 20)])
    await valkey.command("HSET", value, "a", "x", "b", "y" * (20 << 20), "c", "x")
    await valkey.command("HSET", name, "n" * (20 << 20), "x")
    words = ["on", ">pw", "resetchannels", "~*"]
    words += ["+info", "+ping", "+client|info", "+hmget", "+hgetall", "+get", "+hlen", "+memory|usage"]
    await valkey.command("ACL", "SETUSER", "reader", "reset", *words)
    login: dict[str, str] = {"username": "reader", "password": "pw"} if rights == "reader" else {}
    try:
        async with valkey.backend(**login) as backend:
            items = [*fine, *hostile, bare]
            found = await backend.describe_executions([item.execution_id for item in items])
            for item, snapshot in zip(items, found, strict=True):
                assert snapshot is not None
                assert snapshot.namespace == item.namespace
                assert snapshot.tags == ({} if item in hostile else item.tags)
            assert sum(len(repr(reply)) for reply in replies) < 100_000
    finally:
        await valkey.command("ACL", "DELUSER", "reader")


async def test_who_may_not_ask_how_large_tags_are_is_told_them(valkey: ValkeyWorld) -> None:
    """As readers of earlier rules are."""
    item = done(namespace="a", tags={"k": "v"})
    await valkey.write(item)
    words = ["on", ">pw", "~*", "+info", "+ping", "+client|info", "+hmget", "+hgetall", "+get"]
    await valkey.command("ACL", "SETUSER", "reader", "reset", *words)
    try:
        async with valkey.backend(username="reader", password="pw") as backend:
            found = await backend.describe_execution(item.execution_id)
            assert found is not None
            assert found.tags == item.tags
    finally:
        await valkey.command("ACL", "DELUSER", "reader")
