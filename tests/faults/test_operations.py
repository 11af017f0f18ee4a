"""The failure table of docs/operations.md: each of its rows happens here, and the log says what the table says."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import ffcompletion as ffc
from ffcompletion import embedded
from ffcompletion.backends.postgres import PostgresBackend
from ffcompletion.backends.postgres.holders import Holding
from ffcompletion.backends.valkey import ValkeyBackend
from tests import ROOT
from tests.worlds import PostgresWorld, ValkeyWorld, World, done, eventually, first, insert
from tests.worlds.servers import PASSWORD, pgbouncer

TABLE = re.search(
    r"## When something fails\n.*?\n\|---\|---\|---\|\n(.*?)\n\n", (ROOT / "docs/operations.md").read_text(), re.DOTALL
)
assert TABLE is not None
ROWS = {
    cells[0]: re.findall(r"`([^`]+)`", cells[1])
    for cells in (line.strip("| ").split(" | ") for line in TABLE[1].splitlines())
}


class Field:
    """The servers, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: embedded.Server
        self.postgres: PostgresWorld
        self.valkey: ValkeyWorld
        self.said: list[str] = []
        self.messages: Callable[[], list[str]] = list

    def as_role(self, name: str) -> str:
        return self.server.url.replace("postgres@", f"{name}@", 1)

    @asynccontextmanager
    async def role(self, name: str, rights: str) -> AsyncGenerator[str]:
        """A role with these rights, for a moment."""
        await self.postgres.sql(f"CREATE ROLE {name} LOGIN; {rights}")
        try:
            yield self.as_role(name)
        finally:
            await self.postgres.sql(f"DROP OWNED BY {name}; DROP ROLE {name}")

    async def until_said(self, text: str) -> None:
        await eventually(lambda: any(text in message for message in self.messages()), 15)


Row = Callable[[Field], Awaitable[None]]
TESTS: dict[str, Row] = {}


def row(title: str) -> Callable[[Row], Row]:
    def keep(function: Row) -> Row:
        TESTS[title] = function
        return function

    return keep


@row("the server restarts, or a connection is cut")
async def _cut(field: Field) -> None:
    worlds: tuple[World, ...] = (field.postgres, field.valkey)
    for world in worlds:
        async with world.backend() as backend, ffc.subscribe(backend) as stream:
            await world.drop_connections()
            await field.until_said(f"{world.name.rstrip('1268')}: reconnecting")
            await eventually(lambda backend=backend: backend.stats().state is ffc.BackendState.LIVE)
            item = done()
            await world.announce(item)
            assert (await first(stream)).execution_id == item.execution_id


@row("the password was changed")
async def _rotated(field: Field) -> None:
    conninfo = f"host={field.server.directory} user=app dbname=postgres password={PASSWORD}"
    async with PostgresBackend(conninfo) as backend, ffc.subscribe(backend):
        await field.postgres.sql("ALTER ROLE app PASSWORD 'another'")
        await field.postgres.drop_connections()
        await field.until_said("still reconnecting")
        await field.postgres.sql(f"ALTER ROLE app PASSWORD '{PASSWORD}'")
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)


@row("the server is away while somebody waits")
async def _waiting(field: Field) -> None:
    item = done()
    await field.postgres.begins(item)
    async with PostgresBackend(field.server.url, setup_timeout=2) as backend:
        waiting = asyncio.create_task(
            ffc.wait_for_completion(backend, item.execution_id, timeout=60, poll_interval=0.1)
        )
        await eventually(lambda: backend.stats().state is ffc.BackendState.LIVE)
        field.server.kill()
        await field.until_said("state cannot be read")
        await asyncio.to_thread(field.server.start)
        await field.postgres.forget()
        await field.until_said("state can be read again")
        await field.postgres.ends(item)
        assert (await waiting).outcome == "success"


@row("a pooler (PgBouncer) in transaction mode is in between")
async def _pooled(field: Field) -> None:
    with pgbouncer(field.server.url, field.folder) as url:
        async with PostgresBackend(url) as backend, ffc.subscribe(backend):
            pass


@row("a transaction stays open")
async def _held(field: Field) -> None:
    async with PostgresBackend(field.server.url) as backend, ffc.subscribe(backend) as stream:
        run = backend._run
        assert run is not None
        # A minute, moved.
        run.reader.holding = Holding(0.2)
        writer = await field.postgres.connect(autocommit=False)
        await insert(writer, done())
        await field.postgres.announce(done())
        await first(stream)
        await field.until_said("the watermark has been held")
        await writer.rollback()
        await field.until_said("the watermark moves again")


@row("the outbox was truncated, or restored from a dump")
async def _truncated(field: Field) -> None:
    async with PostgresBackend(field.server.url, poll_interval=0.1) as backend, ffc.subscribe(backend) as stream:
        for _ in range(3):
            await field.postgres.announce(done())
            await first(stream)
        await field.postgres.sql("TRUNCATE ff_completion_event RESTART IDENTITY")
        item = done()
        await field.postgres.announce(item)
        assert (await first(stream)).execution_id == item.execution_id


@row("rows were pruned that a stored position had not reached")
async def _pruned(field: Field) -> None:
    await field.postgres.sql("SELECT setval('ff_completion_event_event_id_seq', 1000)")
    await field.postgres.announce(done())
    async with PostgresBackend(field.server.url) as backend:
        with pytest.raises(ffc.CursorExpired) as caught:
            await backend.subscribe_completions_from(ffc.StreamCursor.outbox(3))
    field.said += [type(caught.value).__name__, str(caught.value)]


@row("a policy may hide rows from our role")
async def _policy(field: Field) -> None:
    await field.postgres.sql("ALTER TABLE ff_completion_event ENABLE ROW LEVEL SECURITY")
    try:
        async with field.role("hidden", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO hidden") as url:
            async with PostgresBackend(url) as backend, ffc.subscribe(backend):
                pass
    finally:
        await field.postgres.sql("ALTER TABLE ff_completion_event DISABLE ROW LEVEL SECURITY")


@row("the role may not read the records (Postgres)")
async def _records(field: Field) -> None:
    async with field.role("rows_alone", "GRANT SELECT ON ff_completion_event TO rows_alone") as url:
        async with PostgresBackend(url) as backend, ffc.subscribe(backend):
            pass


@row("the user may not read the index (Valkey)")
async def _index(field: Field) -> None:
    rules = ">right", "resetchannels", "&*", "+@all", "-zrange"
    await field.valkey.command("ACL", "SETUSER", "push", "on", *rules)
    url = field.valkey.url.replace("//", "//push:right@", 1)
    await field.valkey.announce(done())
    async with ValkeyBackend(url, reconcile_interval=0.1) as backend, ffc.subscribe(backend):
        await field.until_said("reconciling is off")
    await field.valkey.command("ACL", "DELUSER", "push")


@row("somebody writes what is no completion")
async def _malformed(field: Field) -> None:
    async with field.valkey.backend() as backend, ffc.subscribe(backend):
        await field.valkey.command("PUBLISH", "ff:dag:completions", json.dumps({"hello": "world"}))
        await field.until_said("could not be read")
    async with field.postgres.backend() as backend, ffc.subscribe(backend):
        await field.postgres.sql(
            "INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms)"
            " VALUES (-1, gen_random_uuid(), 'success', 0)"
        )
        await field.until_said("no valid completion")


@row("a consumer's position cannot be stored")
async def _unstored(field: Field) -> None:
    folder = field.folder / "positions"
    folder.mkdir()
    async with field.postgres.backend() as backend:
        with suppress(ffc.Unavailable):
            async with ffc.checkpointed(backend, ffc.FileCheckpoints(folder / "kept"), "promoter") as completions:
                (folder / "kept").unlink()
                folder.rmdir()
                await field.postgres.announce(done(), done())
                async for _ in completions:
                    await asyncio.sleep(0.2)


@pytest.fixture
async def field(
    server: embedded.Server, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[Field]:
    caplog.set_level(logging.INFO, "ffcompletion")
    made = Field(tmp_path)
    made.server, made.postgres, made.valkey = server, PostgresWorld(18, server.url), ValkeyWorld(valkey_url)
    made.messages = lambda: caplog.messages
    await made.postgres.reset()
    await made.valkey.reset()
    yield made
    await made.postgres.close()
    await made.valkey.close()


def test_every_row_is_one_of_these() -> None:
    assert list(TESTS) == list(ROWS)
    assert all(ROWS.values())


@pytest.mark.parametrize("title", ROWS)
async def test_a_row(field: Field, title: str) -> None:
    await TESTS[title](field)
    said = field.messages() + field.said
    for line in ROWS[title]:
        pattern = ".*".join(map(re.escape, line.split("…")))
        assert any(re.fullmatch(pattern, each, re.DOTALL) for each in said), (line, said)
